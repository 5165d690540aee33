"""`milepost watch`: show the messages on the channels as they are published."""

import asyncio
import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer
from redis.exceptions import RedisError

from milepost.cli import locate, streams
from milepost.cli.channels import Message, Subscription, subscribed
from milepost.cli.exits import Exit, Failed
from milepost.cli.local import data_folder
from milepost.cli.local.console import in_colour, is_colour_terminal
from milepost.cli.loop import run
from milepost.cli.options import AsJson, Data, RedisUrl
from milepost.cli.text import brief, plain, say
from milepost.errors import JournalUnavailable
from milepost.events.strict_json import dumps, loads
from milepost.graph import Graph
from milepost.journal import Journal, StageStatus
from milepost.settings import JournalSettings

LONGEST_PAUSE = 2.0

LOOK_EVERY = 1.0
"""Seconds between two looks at the stages table."""


def watch(
    channels: Annotated[
        list[str] | None,
        typer.Argument(metavar="CHANNEL", help="Channels.", show_default="all of the stages table"),
    ] = None,
    *,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Show the messages that are published, one line each, until Ctrl-C. Goes on after a restart of Redis.

    A line has the time, the channel (each in a colour of its own on a terminal, unless NO_COLOR is set), the event's
    id and its data, nothing masked. `milepost watch email:sent --json | jq .message.data` shows one channel's data.
    With `--json` a line is an object: `channel`, `at`, and `message`, the CloudEvent.
    """
    run(_watch(locate.redis_settings(redis_url, data), channels or [], as_json=as_json))


async def _watch(settings: JournalSettings, channels: Sequence[str], *, as_json: bool) -> Exit:
    async with locate.journal(settings) as journal:
        watched = _Watched(sorted(set(channels)) or all_channels(await journal.admin.stages()))
        if not watched.channels:
            raise Failed("no bridge has named any stage yet: start one, or name the channels to watch")
        tasks = [
            asyncio.create_task(streams.stdout_closed()),
            asyncio.create_task(_show(settings, watched, as_json=as_json)),
        ]
        if not channels:
            tasks.append(asyncio.create_task(_follow_table(journal, watched)))
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for task in done:
            task.result()
    return Exit.DONE


@dataclass
class _Watched:
    """The channels, and the subscription to them while there is one."""

    channels: list[str]
    subscription: Subscription | None = None


async def _show(settings: JournalSettings, watched: _Watched, *, as_json: bool) -> None:
    lost, pause, coloured = False, 0.1, is_colour_terminal(1)
    while True:
        try:
            async with subscribed(settings, tuple(watched.channels)) as watched.subscription:
                say("Redis is back" if lost else f"watching {', '.join(map(plain, watched.channels))}")
                lost, pause = False, 0.1
                async for message in watched.subscription.messages():
                    print(
                        _json(message) if as_json else _line(message, watched.channels, coloured=coloured), flush=True
                    )
        except (RedisError, OSError) as fault:
            if not lost:
                say(f"Redis is gone ({fault}); messages that are published until it is back are not shown")
            lost = True
        watched.subscription = None
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE, 2 * pause)


async def _follow_table(journal: Journal, watched: _Watched) -> None:
    """Watch the channels of stages that begin later, too. `_show` reports a lost Redis."""
    while True:
        await asyncio.sleep(LOOK_EVERY)
        with contextlib.suppress(JournalUnavailable, RedisError, OSError):
            told = set(all_channels(await journal.admin.stages()))
            if watched.subscription and (new := sorted(told - watched.subscription.channels)):
                await watched.subscription.add(new)
                watched.channels += new
                say(f"watching {', '.join(map(plain, new))} too")


def all_channels(stages: Iterable[StageStatus]) -> list[str]:
    """Every channel that a stage consumes or emits."""
    return sorted(Graph(stages).channels)


def _json(message: Message) -> str:
    return dumps({"channel": message.channel, "at": _now().isoformat(), "message": _parsed(message.body)})


def _line(message: Message, channels: Sequence[str], *, coloured: bool) -> str:
    value = _parsed(message.body)
    event_id, data = "-", value
    if isinstance(value, dict) and "specversion" in value:
        event_id, data = str(value.get("id", "-")), value.get("data")
    at = _now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    channel = f"{plain(message.channel):<{max(map(len, channels))}}"
    if coloured:
        channel = in_colour(channel, channels.index(message.channel) if message.channel in channels else 0)
    return f"{at}  {channel}  {plain(event_id):<36}  {brief(data)}"


def _parsed(body: bytes) -> Any:
    try:
        return loads(body)
    except (ValueError, json.JSONDecodeError):
        return body.decode(errors="backslashreplace")


def _now() -> datetime:
    return datetime.now().astimezone()
