"""`milepost watch`: show the messages on the channels as they are published."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import typer
from redis.exceptions import RedisError

from milepost.cli import streams
from milepost.cli.exits import CommandFailed, Exit
from milepost.cli.local import data_folder
from milepost.cli.local.console import in_colour, is_colour_terminal
from milepost.cli.loop import run_on_journal
from milepost.cli.options import AsJson, Data, RedisUrl
from milepost.cli.text import brief, plain, say
from milepost.errors import EventError, JournalUnavailable
from milepost.events.attributes import check_string
from milepost.events.strict_json import dumps, loads, loads_or_text
from milepost.graph import Graph
from milepost.journal import PARTS, Journal
from milepost.journal.connection import end_tasks
from milepost.journal.models import name_text
from milepost.journal.subscription import Message, Subscription, subscribed

LONGEST_PAUSE = 2.0

SILENCE = 5.0
"""Seconds without a message after which a PING is sent."""

LOOK_EVERY = 1.0
"""Seconds between two looks at the stages table."""

_PART = re.compile(rb'\{"journalid":"[^"]*","specversion":"1\.0","id":("(?:[^"\\]|\\.)+)/[0-9]+"')
"""The beginning of the message of a part. Before the last slash of its id is that of the event whose part it is."""


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
    With `--json` a line is an object: `channel`, `at`, and `message`, the CloudEvent. Before the parts of an event that
    a stage has split, a line `parts:` and the stage tells how many there are.
    """
    run_on_journal(redis_url, data, lambda journal: _watch(journal, channels or [], as_json=as_json))


async def _watch(journal: Journal, channels: Sequence[str], *, as_json: bool) -> Exit:
    graph = Graph(await journal.admin.stages())
    watched = _Watched(sorted(set(channels)) or sorted(graph.channels), graph)
    if not watched.channels:
        raise CommandFailed("no bridge has named any stage yet: start one, or name the channels to watch")
    work = [streams.stdout_closed(), _show(journal, watched, as_json=as_json)]
    if not channels:
        work.append(_follow_table(journal, watched))
    tasks = [asyncio.create_task(one) for one in work]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await end_tasks(pending)
    for task in done:
        task.result()
    return Exit.DONE


@dataclass
class _Watched:
    """The channels, the stages, and the subscription to the channels while there is one."""

    channels: list[str]
    graph: Graph
    subscription: Subscription | None = None


async def _show(journal: Journal, watched: _Watched, *, as_json: bool) -> None:
    """Print messages for ever, over one connection after the other. Says when Redis is gone and when it is back."""
    lost, pause, coloured = False, 0.1, is_colour_terminal(1)
    whole = ""
    while True:
        try:
            async with subscribed(journal.redis) as watched.subscription:
                unconfirmed = {channel.encode() for channel in watched.channels}
                await watched.subscription.subscribe(*watched.channels)
                async for message in _each(watched.subscription):
                    if message.kind == b"message":
                        before, whole = whole, _whole_of(message)
                        split = (
                            await _split(journal, watched.graph, message, whole) if whole not in {"", before} else []
                        )
                        for shown in (*split, message):
                            print(_json(shown) if as_json else _line(shown, watched.channels, coloured=coloured))
                    elif message.kind == b"refused":
                        say(f"{plain(name_text(message.channel))}: {name_text(message.data)}")
                    if message.channel in unconfirmed:
                        unconfirmed.remove(message.channel)
                        if not unconfirmed:
                            say("Redis is back" if lost else f"watching {', '.join(map(plain, watched.channels))}")
                            lost, pause = False, 0.1
        except (RedisError, OSError) as fault:
            if not lost:
                say(f"Redis is gone ({fault}); messages that are published until it is back are not shown")
            lost = True
        watched.subscription = None
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE, 2 * pause)


async def _each(subscription: Subscription) -> AsyncIterator[Message]:
    async for messages in subscription.messages(silence=SILENCE):
        for message in messages:
            yield message


def _whole_of(message: Message) -> str:
    """Return the id of the event that this message is a part of; empty if it is no part, or no event of ours."""
    part = _PART.match(message.data)
    try:
        whole = str(loads(part[1] + b'"')) if part else ""
        check_string("id", whole)
    except (EventError, ValueError):
        return ""
    return whole


async def _split(journal: Journal, graph: Graph, message: Message, whole: str) -> list[Message]:
    """Return for the first part of an event that a stage has split a message that tells how many parts there are.

    A script publishes all of them together, and writes their number before anything else can be read.
    """
    try:
        (reached,) = await journal.reached([whole])
    except JournalUnavailable:
        return []
    splits = [f"{PARTS}{stage}" for stage in graph.emitters(name_text(message.channel)) if f"{PARTS}{stage}" in reached]
    progress = [{"specversion": "1.0", "id": whole, "data": {"parts": reached[name]}} for name in splits]
    return [
        Message(message.kind, name.encode(), dumps(data).encode()) for name, data in zip(splits, progress, strict=True)
    ]


async def _follow_table(journal: Journal, watched: _Watched) -> None:
    """Watch the channels of stages that begin later, too. `_show` reports a lost Redis."""
    while True:
        await asyncio.sleep(LOOK_EVERY)
        with contextlib.suppress(JournalUnavailable, RedisError, OSError):
            watched.graph = Graph(await journal.admin.stages())
            new = sorted({*watched.graph.channels} - {*watched.channels})
            if watched.subscription and new:
                await watched.subscription.subscribe(*new)
                watched.channels += new
                say(f"watching {', '.join(map(plain, new))} too")


def _json(message: Message) -> str:
    name, event = name_text(message.channel), loads_or_text(message.data)
    return dumps({"channel": name, "at": _now().isoformat(), "message": event})


def _line(message: Message, channels: Sequence[str], *, coloured: bool) -> str:
    value = loads_or_text(message.data)
    event_id, data = "-", value
    if isinstance(value, dict) and "specversion" in value:
        event_id, data = str(value.get("id", "-")), value.get("data")
    at = _now().strftime("%H:%M:%S.%f")[:-3]
    name = name_text(message.channel)
    channel = f"{plain(name):<{max(map(len, channels))}}"
    if coloured:
        channel = in_colour(channel, channels.index(name) if name in channels else 0)
    return f"{at}  {channel}  {plain(event_id):<36}  {brief(data)}"


def _now() -> datetime:
    return datetime.now().astimezone()
