"""The bridge's steps in Redis beside delivery: adoption, lease, stages table, delivery mode, due events, trimming."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from milepost.errors import JournalUnavailable
from milepost.events.event import Event
from milepost.events.strict_json import dumps
from milepost.journal import keys, scripts
from milepost.journal.admin import BROKER, FRESH
from milepost.journal.consumer import Failure
from milepost.journal.models import Wiring, event_row, milliseconds, name_text
from milepost.journal.scripts import RouteRow, Scripts, StageRow, ask

MOST_UNREADABLE = 10_000
"""Most messages kept as dead letters of `bridge`."""

LARGEST_UNREADABLE = 64_000
"""Most bytes kept of each."""

HANDOVER = 1.0
"""Seconds after a release during which only bridges that received it may take the lease."""

UNKNOWN = "unknown"
"""In place of a token: the bridge has received none on its connection."""

STATUS_AGE = timedelta(minutes=30)
"""Age of an entry from which on the status of its submission is kept: without that a status ends after an hour."""

STATUS_PAGE = 500
"""Entries that one step looks at."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """An event that another program published. `token`: our token when a plain message was received; None for a
    CloudEvent.
    """

    event: Event
    token: str | None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message that is no event, and why."""

    channel: str
    message: bytes
    reason: str


class SwitchBlocked(NamedTuple):
    """Why this bridge cannot take over from the other delivery mode yet. `unfinished`: that mode must finish events
    first, or a stage of it be resumed; otherwise it only has to be stopped. `events`: how many are left, 0 if no event
    is the reason.
    """

    reason: str
    unfinished: bool
    events: int = 0


class Maintenance:
    """Each method is one atomic step unless it says otherwise, and raises JournalUnavailable."""

    def __init__(self, redis_scripts: Scripts, *, dedup: timedelta, limit: int) -> None:
        self._scripts = redis_scripts
        self._dedup = milliseconds(dedup)
        self._limit = limit

    async def adopt(self, batch: Sequence[Adoption]) -> list[str]:
        """Journal these events. Returns for each `done`, `seen`, `not leading`, or `error …` if Redis refuses it."""
        answers = await self._scripts.adopt(
            dedup=self._dedup,
            messages=[scripts.AdoptRow(item.token or "", *event_row(item.event)) for item in batch],
        )
        return [answer.decode() for answer in answers]

    async def announce(self, event: Event) -> bool:
        """Publish an event that a Broker delivers by itself. False if it was published before."""
        answer = await self._scripts.announce(dedup=self._dedup, **event_row(event)._asdict())
        return bool(answer == b"done")

    async def bury_given_up(self, stage: str, event: Event, failure: Failure) -> None:
        """Make a dead letter of an event that a Broker gave up. A replay gives it to the Broker again."""
        await self._scripts.bury_given_up(
            stage=stage,
            channel=event.type,
            event=event.to_json(),
            id=event.id,
            reason=failure.reason,
            status="" if failure.status is None else str(failure.status),
            attempts=failure.attempts,
        )

    async def unreadable(self, batch: Sequence[Unreadable]) -> int:
        """Keep messages that are no events. Returns how many older ones were removed for them."""
        rows = [scripts.UnreadableRow(item.message[:LARGEST_UNREADABLE], item.channel, item.reason) for item in batch]
        return int(await self._scripts.unreadable(most=MOST_UNREADABLE, messages=rows))

    async def lease(self, token: str, *, ttl: float, known: str | None) -> str:
        """Take the lease for `ttl` seconds if it is free, or renew it if it is ours. Returns the token that holds it.

        `known`: the token that this bridge received last, empty for a release, None for none. The token that holds the
        lease is published if it is another one, and whenever the lease is taken. For HANDOVER seconds after a release
        only bridges that received it may take the lease. To others this returns an empty token.
        """
        holder = await self._scripts.lease(
            token=token, ttl=milliseconds(ttl), known=UNKNOWN if known is None else known
        )
        return str(holder.decode())

    async def release(self, token: str) -> bool:
        """Release the lease and publish that. False if it was not ours any more."""
        return bool(await self._scripts.release(token=token, handover=milliseconds(HANDOVER)))

    async def beat(self, routes: Mapping[str, Wiring]) -> bool:
        """Write these routes into the stages table with the time, and publish which channels are consumed.

        Returns False and writes nothing if the other delivery mode is served and these routes are not.
        """
        rows = [
            scripts.BeatRow(
                name,
                dumps(list(wiring.consumes)),
                dumps(_row(wiring)),
                dumps({stage: _behind(one) for stage, one in wiring.behind.items()}) if wiring.behind else "",
            )
            for name, wiring in routes.items()
        ]
        return bool(await self._scripts.beat(fresh=FRESH, broker=BROKER, routes=rows))

    async def switch(self, routes: Mapping[str, Wiring]) -> SwitchBlocked | None:
        """Take over from the groups of the other delivery mode, if there are any: their places and events under way.

        Returns why that is not possible yet, or None if it is done.
        """
        rows = [RouteRow(name, channel) for name, wiring in routes.items() for channel in wiring.consumes]
        answer, *of = await self._scripts.switch(fresh=FRESH, broker=BROKER, routes=rows)
        if answer == b"paused":
            stage = name_text(of[0])
            reason = f"{stage} is paused, and the pause would end with its delivery mode: resume it first"
            return SwitchBlocked(reason, unfinished=True)
        if answer == b"served":
            reason = f"the other delivery mode still serves {name_text(of[0])}, or did less than a minute ago"
            return SwitchBlocked(reason, unfinished=False)
        if answer == b"many":
            reason = (
                "the other delivery mode has more events that are pending, parked, held or to be retried than one step "
                "can move: let it finish some of them first"
            )
            return SwitchBlocked(reason, unfinished=True, events=int(of[0]))
        if answer == b"unfinished":
            reason = (
                f"the other delivery mode left events of {name_text(of[0])} that several stages would have to share: "
                "finish them in that mode first"
            )
            return SwitchBlocked(reason, unfinished=True, events=int(of[1]))
        return None

    async def retry_due(self, stages: Sequence[str], *, most: int) -> tuple[int, float | None, dict[str, str]]:
        """Move up to `most` parked events of each stage that are due to its retries.

        Returns how many, the seconds until the next is due (None if nothing is parked), and stage → why Redis refused.
        """
        moved, due, *refused = await self._scripts.retry_due(most=most, stages=[StageRow(stage) for stage in stages])
        texts = [text.decode() for text in refused]
        return int(moved), None if int(due) < 0 else int(due) / 1000, dict(zip(texts[::2], texts[1::2], strict=True))

    async def journals(self) -> list[str]:
        """The channels that have a journal."""
        return sorted(map(name_text, await ask(self._scripts.redis.smembers(keys.JOURNALS))))

    async def trim(self, channel: str) -> tuple[str, int, int]:
        """Delete the entries of a journal that every group has finished, and those over the limit (see lua/trim.lua).

        Returns `trimmed`, `absent`, `unconsumed` or why Redis refused; how many entries were deleted, or are left if
        refused; how many of those deleted an unserved stage had not finished.
        """
        happened, count, dropped = await self._scripts.trim(channel=channel, fresh=FRESH, limit=self._limit)
        return happened.decode(), int(count), int(dropped)

    async def keep_statuses(self, channel: str) -> None:
        """Keep the status of submissions whose events wait long in this journal, or its retries or held events, of each
        stage. Several steps.
        """
        stages = [name_text(stage) for stage in await ask(self._scripts.redis.hkeys(keys.STAGES))]
        for stream in (
            keys.journal(channel),
            *(keys.retries(stage, channel) for stage in stages),
            *(keys.held(stage, channel) for stage in stages),
        ):
            start = "-"
            while start:
                answer = await self._scripts.keep_statuses(
                    stream=stream, start=start, most=STATUS_PAGE, age=milliseconds(STATUS_AGE)
                )
                start = answer.decode()

    async def unblock_lost(self, routes: Mapping[str, Wiring]) -> int:
        """Unblock keys of ordered stages whose event in hand was deleted. Returns how many. Several steps.

        If Redis refuses one stage, the others are looked at before it raises.
        """
        unblocked, fault = 0, None
        for stage, channel in [(name, channel) for name, wiring in routes.items() for channel in wiring.consumes]:
            start = "0"
            try:
                while start:
                    answer, count = await self._scripts.unblock_lost(
                        stage=stage, channel=channel, start=start, most=STATUS_PAGE
                    )
                    start, unblocked = answer.decode(), unblocked + int(count)
            except JournalUnavailable as refused:
                fault = refused
        if fault:
            raise fault
        return unblocked


def _row(wiring: Wiring) -> dict[str, Any]:
    """Return a route for its row, without its channels and its beat."""
    row = {"emits": list(wiring.emits), "url": wiring.url, "needsData": list(wiring.needs_data)}
    return row | ({"order": wiring.order} if wiring.order else {})


def _behind(stage: Wiring) -> dict[str, Any]:
    """Return a stage behind the Broker for its row. Lua writes an empty list as an object, so `emits` is a text."""
    return {"consumes": list(stage.consumes), "emits": " ".join(stage.emits)}
