"""`milepost send`: one submission through the gateway, followed channel by channel."""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
from redis.exceptions import RedisError

from milepost.cli import reach
from milepost.cli.channels import subscribed
from milepost.cli.exits import Exit, Failed, Unreachable
from milepost.cli.text import brief, plain, say
from milepost.cli.watch import all_channels
from milepost.errors import ConfigurationError, JournalUnavailable
from milepost.graph import Graph
from milepost.journal import StageStatus
from milepost.settings import JournalSettings

FIRST = "raw_input"
DEAD = "dead:"
ASK_EVERY = 0.5
"""Seconds after which the gateway is asked though nothing was heard."""


@dataclass
class Progress:
    """How far the submission has come. `last`: the channels it ends on, empty where that is not known."""

    last: frozenset[str]
    seen: dict[str, Any] = field(default_factory=dict)
    _began: datetime | None = None

    def take(self, channels: Iterable[dict[str, Any]]) -> None:
        """Show the channels that are new."""
        for note in channels:
            channel, at, data = note["channel"], datetime.fromisoformat(note["time"]), note["data"]
            if channel in self.seen:
                continue
            self._began = self._began or at
            self.seen[channel] = data
            print(f"{plain(channel):<24} {(at - self._began) / timedelta(milliseconds=1):6.0f} ms", flush=True)

    @property
    def buried(self) -> str | None:
        """Why and where the submission became a dead letter, in words; None if it did not."""
        for channel, data in self.seen.items():
            if channel.startswith(DEAD):
                reason = data.get("reason") if isinstance(data, dict) else data
                return f"stage {channel.removeprefix(DEAD)} buried it: {plain(str(reason))}"
        return None

    @property
    def missing(self) -> list[str]:
        """The channels still to come."""
        if not self.last:
            return [] if any(_message(data) for data in self.seen.values()) else ["the message"]
        return sorted(self.last - self.seen.keys())

    @property
    def messages(self) -> list[str]:
        """What came out: the messages, or the data where there is none."""
        ends = self.last or {channel for channel, data in self.seen.items() if _message(data)}
        return [_message(data) or brief(data) for channel, data in self.seen.items() if channel in ends]


async def send(settings: JournalSettings, gateway: str, submission: dict[str, str], within: float) -> Exit:
    """Submit, show each channel as it is reached, and print the message.

    Raises ConfigurationError for what the gateway finds wrong, Unreachable, Failed.
    """
    stages = await _stages(settings)
    progress = Progress(last_channels(stages))
    heard = asyncio.Event()
    listening = asyncio.Event()
    ear = asyncio.create_task(_listen(settings, all_channels(stages), heard, listening))
    await asyncio.wait({ear, asyncio.create_task(listening.wait())}, return_when=asyncio.FIRST_COMPLETED)
    try:
        async with httpx.AsyncClient(base_url=gateway, trust_env=False, timeout=10) as client:
            place = await _submit(client, submission)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await _follow(client, place, progress, heard)
    finally:
        ear.cancel()
    if progress.buried:
        say(progress.buried)
        return Exit.BURIED
    if progress.missing:
        say(f"not reached within {within:g} s: {', '.join(progress.missing)}; `milepost stages` shows what waits where")
        return Exit.UNFINISHED
    for message in progress.messages:
        print(plain(message))
    return Exit.DONE


def last_channels(stages: Iterable[StageStatus]) -> frozenset[str]:
    """The channels on which a submission ends."""
    return Graph(stages).ends(FIRST)


async def _stages(settings: JournalSettings) -> list[StageStatus]:
    try:
        async with reach.journal(settings) as journal:
            return await journal.stages()
    except (Unreachable, JournalUnavailable) as fault:
        say(f"{fault}. Asking the gateway alone")
        return []


async def _listen(
    settings: JournalSettings, channels: list[str], heard: asyncio.Event, listening: asyncio.Event
) -> None:
    """Set `heard` at each message. It only hastens: the gateway is asked all the same."""
    if not channels:
        return
    with contextlib.suppress(RedisError, OSError):
        async with subscribed(settings, channels) as subscription:
            listening.set()
            async for _ in subscription.messages():
                heard.set()


async def _submit(client: httpx.AsyncClient, submission: dict[str, str]) -> str:
    try:
        answer = await client.post("/distance", json=submission)
    except (httpx.HTTPError, httpx.InvalidURL) as fault:
        raise Unreachable(
            f"no gateway at {client.base_url}: {fault}; start `milepost up`, or name another with --gateway"
        ) from None
    if answer.status_code == 422:
        raise ConfigurationError(_detail(answer))
    if answer.status_code == 503:
        raise Unreachable(f"the gateway takes nothing now: {_detail(answer)}")
    if answer.status_code != 202:
        raise Failed(f"the gateway answered {answer.status_code}: {_detail(answer)}")
    taken = answer.json()
    print(f"{'accepted':<24} {taken['id']}", flush=True)
    return str(taken["status"])


async def _follow(client: httpx.AsyncClient, place: str, progress: Progress, heard: asyncio.Event) -> None:
    while progress.missing and not progress.buried:
        heard.clear()
        with contextlib.suppress(httpx.HTTPError, ValueError):  # it may be restarting: asked again
            answer = await client.get(place)
            if answer.status_code == 200:
                progress.take(answer.json()["channels"])
        if progress.missing and not progress.buried:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(heard.wait(), ASK_EVERY)


def _message(data: Any) -> str | None:
    message = data.get("message") if isinstance(data, dict) else None
    return message if isinstance(message, str) else None


def _detail(answer: httpx.Response) -> str:
    try:
        return plain(str(answer.json()["detail"]))
    except (ValueError, KeyError, TypeError):
        return plain(answer.text[:200])
