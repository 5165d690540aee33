"""The journal for operators: stages and the events that wait for them, pauses, dead letters, `forget`."""

from collections.abc import Mapping, Sequence
from typing import Any

from milepost.errors import JournalUnavailable, MilepostError
from milepost.journal import keys
from milepost.journal.models import (
    BEAT_FRESH,
    DeadLetter,
    Depth,
    Forgotten,
    StageState,
    milliseconds,
    name_text,
    read_row,
)
from milepost.journal.refusals import OF_KEYS
from milepost.journal.scripts import DepthRow, LetterRow, Scripts, ask, ask_list

BROKER = "broker"
"""Name of the only route in broker mode, of its groups and of its parked events."""

FRESH = milliseconds(BEAT_FRESH)


class StageServed(MilepostError):
    """A bridge serves the stage, so it cannot be forgotten."""


class StageNotServed(MilepostError):
    """No bridge serves the stage on this channel, so nothing would deliver a replayed event."""


class Admin:
    """Each method is one atomic step unless it says otherwise, and raises JournalUnavailable.

    `doors` runs scripts that wait for REPLICAS.
    """

    def __init__(self, scripts: Scripts, doors: Scripts) -> None:
        self._scripts = scripts
        self._doors = doors
        self._redis = scripts.redis

    async def table(self) -> dict[str, Any]:
        """Return the stages table: name → the stage's `consumes`, `emits`, `url` and `beat`."""
        table: dict[bytes, bytes] = await ask(self._redis.hgetall(keys.STAGES))
        rows = {name_text(name): read_row(text) for name, text in sorted(table.items())}
        return {name: row for name, row in rows.items() if row is not None}

    async def needs_data(self) -> frozenset[str]:
        """Return the channels of which functions refuse an event without data."""
        return frozenset(channel for row in (await self.table()).values() for channel in row.get("needsData", ()))

    async def stages(self) -> list[StageState]:
        """Return every stage of the stages table, by name, and how many events wait for it. Several steps.

        A place that a stage has left behind (see `left_behind`) comes after them, as a stage that is not served.
        """
        stages = await self.table()
        seconds, _ = await ask(self._redis.time())
        paused = await self.paused()
        depths = await self.depths({name: wired["consumes"] for name, wired in stages.items()})
        table = [
            StageState(
                name=depth.stage,
                consumes=tuple(wired["consumes"]),
                emits=tuple(wired["emits"]),
                url=wired["url"],
                served=seconds * 1000 - wired["beat"] < FRESH,
                journaled=depth.journaled,
                parked=depth.parked,
                dead=depth.dead,
                oldest=depth.oldest,
                held=depth.held,
                order=wired.get("order", False),
                paused=depth.stage in paused,
            )
            for depth, wired in zip(depths, stages.values(), strict=True)
        ]
        left_behind = [
            StageState(
                name=depth.stage,
                consumes=(depth.stage.partition(":")[2],),
                journaled=depth.journaled,
                oldest=depth.oldest,
                left_behind=True,
            )
            for depth in await self.left_behind()
        ]
        return table + left_behind

    async def paused(self) -> frozenset[str]:
        """Return the names of the paused stages; an empty set if that key is of another type."""
        try:
            return frozenset(map(name_text, await ask(self._redis.smembers(keys.PAUSED))))
        except JournalUnavailable as fault:
            if fault.code not in OF_KEYS:
                raise
            return frozenset()

    async def pause(self, stage: str) -> bool:
        """Let no bridge deliver to a stage until `resume`. False if it was paused already.

        Bridges look once a second. Requests under way are not cut off. Returns once REPLICAS have the pause, so that a
        failover does not end it. Raises LookupError for an unknown stage.
        """
        if stage not in await self.table():
            raise LookupError(stage)
        return bool(await self._doors.pause(stage=stage))

    async def resume(self, stage: str) -> bool:
        """Let bridges deliver to a stage again. False if it was not paused."""
        return bool(await ask(self._redis.srem(keys.PAUSED, stage)))

    async def depths(self, stages: Mapping[str, Sequence[str]]) -> list[Depth]:
        """Return how many events wait for each of these stages. `stages`: name → the channels that it consumes."""
        rows = await self._scripts.depth(
            stages=[DepthRow(stage, " ".join(channels)) for stage, channels in stages.items()]
        )
        return [
            Depth(stage, journaled, parked, dead, None if oldest < 0 else oldest / 1000, held)
            for stage, (journaled, parked, dead, oldest, held) in zip(stages, rows, strict=True)
        ]

    async def left_behind(self) -> list[Depth]:
        """Return how many events wait in groups that no bridge reads, because their stage consumes other channels now.

        Each is named `stage:channel`.
        """
        rows = sorted(await self._scripts.left_behind())
        return [
            Depth(f"{name_text(stage)}:{name_text(channel)}", events, 0, 0, None if oldest < 0 else oldest / 1000)
            for stage, channel, events, oldest in rows
        ]

    async def unconsumed(self) -> dict[str, int]:
        """Return the journals of channels that no stage consumes or emits: channel → events. Several steps."""
        emitted = {channel for wired in (await self.table()).values() for channel in wired["emits"]}
        channels = {name_text(name) for name in await ask(self._redis.smembers(keys.JOURNALS))}
        lengths: dict[str, int] = {}
        for channel in sorted(channels - emitted):
            journal = keys.journal(channel)
            length = int(await ask(self._redis.xlen(journal)))
            if length and not await ask_list(self._redis.xinfo_groups(journal)):
                lengths[channel] = length
        return lengths

    async def forget(self, stage: str) -> Forgotten:
        """Remove a stage's row in the table, its pause, groups, retries, parked and held events and dead letters.

        Of `stage:channel` only the events that the stage has left behind on that channel (see `left_behind`).
        Raises StageServed while a bridge serves it, LookupError if nothing of it exists.
        """
        name, _, channel = stage.partition(":")
        verdict, *deleted = await self._scripts.forget(stage=name, channel=channel, fresh=FRESH)
        if verdict == b"served":
            raise StageServed(f"{stage} is served by a bridge: stop serving it first")
        if verdict == b"unknown":
            raise LookupError(stage)
        return Forgotten(*deleted)

    async def forget_journal(self, channel: str) -> int:
        """Delete the journal of a channel that no stage consumes; returns how many events were deleted.

        Raises StageServed if a stage does consume it.
        """
        gone = await self._scripts.forget_journal(channel=channel)
        if gone < 0:
            raise StageServed(f"a stage consumes {channel}")
        return int(gone)

    async def dead_stages(self) -> list[str]:
        """Return the stages that have had dead letters; `bridge` for messages that were no events."""
        return sorted(name_text(name) for name in await ask(self._redis.smembers(keys.DEAD)))

    async def dead_letters(self, stage: str, *, start: str = "-", count: int = 100) -> list[DeadLetter]:
        """Return up to `count` dead letters of `stage`, oldest first, from stream id `start` on (`(id`: after it)."""
        rows = await ask(self._redis.xrange(keys.dead(stage), start, "+", count))
        return [DeadLetter.read(stage, row) for row in rows]

    async def replay(self, stage: str, entries: Sequence[str]) -> int:
        """Deliver dead letters to `stage` again, before unread events. Their counts and deadline begin afresh.

        Returns how many there were. Raises ValueError for `bridge`, whose letters are no events; StageNotServed if no
        bridge serves the stage on the channel of one of them. Letters are replayed in steps of about 8 MB; a step with
        an unserved channel replays none.
        """
        if stage == "bridge":
            raise ValueError("a message that the bridge could not read cannot be replayed; drop it")
        left, replayed = [LetterRow(entry) for entry in entries], 0
        while left:
            answer, *looked_at = await self._scripts.replay(stage=stage, broker=BROKER, fresh=FRESH, letters=left)
            if isinstance(answer, list):
                route, channel = map(name_text, answer)
                raise StageNotServed(f"no bridge serves {route} on {channel}: its dead letters stay until one does")
            replayed += int(answer)
            left = left[int(looked_at[0]) :]
        return replayed

    async def drop(self, stage: str, entries: Sequence[str]) -> int:
        """Delete dead letters for good. Returns how many there were."""
        return int(await ask(self._redis.xdel(keys.dead(stage), *entries))) if entries else 0
