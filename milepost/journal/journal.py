"""The journal as doors and operators see it: publish, look up, replay, forget."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from milepost import keys
from milepost.batch import Batch
from milepost.connection import Watch
from milepost.errors import BacklogFull, MilepostError
from milepost.events.event import Event
from milepost.events.strict_json import DEEPEST, loads
from milepost.journal.records import (
    BEAT_FRESH,
    DeadLetter,
    Forgotten,
    Note,
    StageStatus,
    event_arguments,
    event_keys,
    milliseconds,
    moment,
)
from milepost.journal.scripts import Scripts, Text, checked, unavailable
from milepost.settings import JournalSettings

BACKLOG_TRUSTED = 0.1
"""Seconds for which doors do not count the backlog anew."""

MOST_UNCONSUMED = 1000
"""Journals of channels that no stage consumes, above which doors begin no other."""

_OF = (keys.journal(""), keys.waiting(""), keys.dead(""))


class StageServed(MilepostError):  # noqa: N818 - named for the state that forbids forgetting
    """A bridge serves this stage: it cannot be forgotten."""


class StageNotServed(MilepostError):  # noqa: N818 - named for the state that forbids replaying
    """No bridge serves the stage on this channel: what is for it alone would be lost."""


class Journal:
    """Events on their way in, and where they are. Safe to share between tasks; publishes travel in batches."""

    def __init__(self, redis: Redis, settings: JournalSettings) -> None:
        self.redis = redis
        self.scripts = Scripts(redis)
        self.watch = Watch(redis)
        self.keeping = keeping(settings)
        self._limit = settings.backlog_limit
        self._publishes: Batch[tuple[Sequence[Text], Sequence[Text]], bytes] = Batch(
            self._publish, size=lambda item: sum(len(str(text)) for text in item[1])
        )

    async def publish(self, event: Event) -> bool:
        """Journal `event` and announce it on its channel, in one atomic step.

        Returns False, and does nothing, if this (source, id) was published before.
        Raises JournalUnavailable if Redis cannot take it, BacklogFull if the backlog is over its limit, or if no
        stage consumes the channel and too many such channels wait already: then nothing was written.
        """
        answer = await self._publishes.submit((event_keys(event), event_arguments(event)))
        if answer == b"crowded":
            raise BacklogFull(
                f"no stage consumes {event.type!r}, and {MOST_UNCONSUMED} channels that none consumes wait already"
            )
        return checked([answer]) == ["done"]

    async def _publish(self, batch: Sequence[tuple[Sequence[Text], Sequence[Text]]]) -> Sequence[bytes]:
        answers = await self.scripts.run(
            "publish",
            [
                *(keys.STAGES, keys.ANNOUNCED, keys.JOURNALS, keys.DEAD, keys.BACKLOG),
                *(key for names, _ in batch for key in names),
            ],
            [
                *(self._limit, MOST_UNCONSUMED, round(BACKLOG_TRUSTED * 1000), *_OF, *self.keeping),
                *(argument for _, texts in batch for argument in texts),
            ],
        )
        if answers == b"full":
            raise BacklogFull(f"the backlog is over its limit of {self._limit} events")
        return list(answers)

    async def progress(self, event_id: str) -> dict[str, Note]:
        """Which channels a submission has reached, oldest first; empty for an id nobody knows."""
        fields = await self.ask(self.redis.hgetall(keys.progress(event_id)))
        notes = {channel.decode(): loads(text, deepest=DEEPEST + 4) for channel, text in fields.items()}
        ordered = sorted(notes.items(), key=lambda item: int(item[1]["at"]))
        return {channel: Note(moment(note["at"] / 1000), note["data"]) for channel, note in ordered}

    async def backlog(self) -> int:
        """Journaled, parked and dead events together."""
        return int(await self.scripts.run("backlog", [keys.JOURNALS, keys.STAGES, keys.DEAD], _OF))

    async def ping(self) -> None:
        """Raises JournalUnavailable unless new connections lead to a primary and the one that publishes answers."""
        await self.ask(self.watch.look())
        await self.ask(self.scripts.line.call("PING"))

    async def stages(self) -> list[StageStatus]:
        """Every stage of the bridges' route table, by name, and what lies before it."""
        table = await self.ask(self.redis.hgetall(keys.STAGES))
        seconds, _ = await self.ask(self.redis.time())
        return [await self._stage(name.decode(), loads(text), seconds * 1000) for name, text in sorted(table.items())]

    async def _stage(self, name: str, wired: dict[str, Any], now: int) -> StageStatus:
        return StageStatus(
            name=name,
            consumes=tuple(wired["consumes"]),
            emits=tuple(wired["emits"]),
            url=wired["url"],
            served=now - wired["beat"] < BEAT_FRESH * 1000,
            backlog=sum([await self._unfinished(channel, name) for channel in wired["consumes"]]),
            parked=await self.ask(self.redis.zcard(keys.waiting(name))),
            dead=await self.ask(self.redis.xlen(keys.dead(name))),
        )

    async def _unfinished(self, channel: str, group: str) -> int:
        """Entries that the group has pending or has not read. Where Redis does not know, the length stands in."""
        journal = keys.journal(channel)
        length = int(await self.ask(self.redis.xlen(journal)))
        try:
            groups = await self.redis.xinfo_groups(journal)
        except ResponseError:  # no journal yet
            return 0
        except (RedisError, OSError) as fault:
            raise unavailable(fault) from fault
        for row in groups:
            if row["name"] == group.encode():
                lag = row.get("lag")
                return length if lag is None else min(length, int(row["pending"]) + int(lag))
        return length

    async def unconsumed(self) -> dict[str, int]:
        """Journals that no stage consumes, which nothing trims: channel → events."""
        channels = sorted(name.decode() for name in await self.ask(self.redis.smembers(keys.JOURNALS)))
        lengths = {channel: await self._length_without_group(channel) for channel in channels}
        return {channel: length for channel, length in lengths.items() if length}

    async def _length_without_group(self, channel: str) -> int:
        try:
            groups = await self.redis.xinfo_groups(keys.journal(channel))
        except ResponseError:  # gone
            return 0
        except (RedisError, OSError) as fault:
            raise unavailable(fault) from fault
        return 0 if groups else int(await self.ask(self.redis.xlen(keys.journal(channel))))

    async def forget(self, stage: str) -> Forgotten:
        """Remove a stage's table entry, groups, parked events and dead letters, in one step.

        Raises StageServed while a bridge serves it, LookupError if nothing of it exists, JournalUnavailable.
        """
        verdict, parked, dead = await self.scripts.run(
            "forget",
            [keys.STAGES, keys.ANNOUNCED, keys.JOURNALS, keys.waiting(stage), keys.DEAD, keys.dead(stage)],
            [stage, round(BEAT_FRESH * 1000), keys.journal("")],
        )
        if verdict == b"served":
            raise StageServed(f"{stage} is served by a bridge: stop serving it first")
        if verdict == b"unknown":
            raise LookupError(stage)
        return Forgotten(parked, dead)

    async def forget_journal(self, channel: str) -> int:
        """Delete the journal of a channel that no stage consumes; returns how many events went.

        Raises StageServed if a stage does consume it, JournalUnavailable.
        """
        gone = await self.scripts.run("forget_journal", [keys.STAGES, keys.JOURNALS, keys.journal(channel)], [channel])
        if gone < 0:
            raise StageServed(f"a stage consumes {channel}")
        return int(gone)

    async def dead_stages(self) -> list[str]:
        """Names of the stages that have had dead letters; `bridge` for messages nobody could read."""
        return sorted(name.decode() for name in await self.ask(self.redis.smembers(keys.DEAD)))

    async def dead_letters(self, stage: str, *, start: str = "-", count: int = 100) -> list[DeadLetter]:
        """Up to `count` dead letters of `stage`, oldest first, from stream id `start` (`(id`: after it)."""
        rows = await self.ask(self.redis.xrange(keys.dead(stage), start, "+", count))
        return [DeadLetter.read(stage, row) for row in rows]

    async def replay(self, stage: str, entries: Sequence[str]) -> int:
        """Put dead letters back into their journals, for `stage` alone, counts and deadline afresh.

        Returns how many there were. Raises ValueError for `bridge`, whose letters no journal can carry;
        StageNotServed, with nothing replayed, if one of them is for a route that no bridge serves on its channel.
        """
        if stage == "bridge":
            raise ValueError("what the bridge itself could not read cannot be replayed; drop it")
        answer = await self.scripts.run(
            "replay",
            [keys.STAGES, keys.JOURNALS, keys.dead(stage)],
            [stage, round(BEAT_FRESH * 1000), keys.journal(""), keys.progress(""), *entries],
        )
        if isinstance(answer, list):
            route, channel = (text.decode() for text in answer)
            raise StageNotServed(f"no bridge serves {route} on {channel}: its dead letters stay until one does")
        return int(answer)

    async def drop(self, stage: str, entries: Sequence[str]) -> int:
        """Delete dead letters for good. Returns how many there were."""
        return int(await self.ask(self.redis.xdel(keys.dead(stage), *entries))) if entries else 0

    async def ask(self, call: Any) -> Any:
        """Await one plain Redis command. Raises JournalUnavailable."""
        try:
            return await call
        except (RedisError, OSError) as fault:
            raise unavailable(fault) from fault

    async def close(self) -> None:
        """Close every connection."""
        await self.scripts.close()


def keeping(settings: JournalSettings) -> tuple[int, int]:
    """How long `seen` and `progress` are kept, in milliseconds: the second is the deadline and an hour more."""
    hour = timedelta(hours=1)
    return milliseconds(settings.dedup), milliseconds(settings.deadline + hour)
