"""One consumer group on one journal: a stage's side of a channel. Everything between read and acknowledge."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.exceptions import RedisError, ResponseError

from milepost import keys
from milepost.batch import Batch
from milepost.events.event import Event
from milepost.journal.records import Entry, event_arguments, event_keys, milliseconds
from milepost.journal.scripts import Scripts, Text, checked, unavailable
from milepost.line import Line

MOST_PENDING = 100_000
"""More entries than a consumer ever has pending."""


PACE = 0.002
"""Seconds between two settlings of one group when deliveries end faster than that: each costs a round trip."""


@dataclass(frozen=True, slots=True)
class Complete:
    """The delivery succeeded; its reply, if there is one, enters the next journal in the same step."""

    entry: Entry
    reply: Event | None


@dataclass(frozen=True, slots=True)
class Letter:
    """What is known of a failed delivery; `id` is the event's."""

    id: str
    reason: str
    status: int | None
    attempts: int
    crashes: int


@dataclass(frozen=True, slots=True)
class Park:
    """The delivery failed and is due again after `delay` seconds, unless its deadline has passed: then buried."""

    entry: Entry
    letter: Letter
    delay: float


@dataclass(frozen=True, slots=True)
class Bury:
    """No retry can help."""

    entry: Entry
    letter: Letter


@dataclass(frozen=True, slots=True)
class Hold:
    """Not to be delivered before it is `delay` seconds old. It was not tried: nothing is counted, and its deadline is
    counted from then.
    """

    entry: Entry
    delay: float


Act = Complete | Park | Bury | Hold


class Group:
    """The group `name` on `channel`, read as `consumer`.

    `reader` is a line of its own for blocking reads, which never sends a command again.
    """

    def __init__(
        self,
        channel: str,
        name: str,
        consumer: str,
        *,
        reader: Line,
        scripts: Scripts,
        keeping: tuple[int, int],
        deadline: timedelta,
    ) -> None:
        self.channel = channel
        self.name = name
        self.consumer = consumer
        self._journal = keys.journal(channel)
        self._reader = reader
        self._scripts = scripts
        self._keeping = keeping
        self._deadline = milliseconds(deadline)
        self._acts: Batch[Act, bytes] = Batch(self._settle, size=_size, pace=PACE)

    async def ensure(self) -> bool:
        """Make the group, from the journal's beginning, if it is missing. Raises JournalUnavailable."""
        made = await self._scripts.run("ensure", [keys.JOURNALS, self._journal], [self.channel, self.name])
        return bool(made)

    async def read(self, count: int, *, block: float, beside: Sequence["Group"] = ()) -> list[Entry] | None:
        """Up to `count` entries no consumer had yet, waiting up to `block` seconds for the first.

        With them up to `count` of each group `beside` it, which differ in nothing but the channel. None if a group is
        gone (see `ensure`). Raises JournalUnavailable: what the lost reply may have carried is pending now, and comes
        back by `reread` or takeover.
        """
        return await self._read([self, *beside], ">", count, block=round(block * 1000))

    async def reread(self) -> list[Entry] | None:
        """Whatever this consumer has pending, on the wire or not. Raises JournalUnavailable."""
        return await self._read([self], "0", MOST_PENDING, block=None)

    async def _read(
        self, groups: Sequence["Group"], start: str, count: int, *, block: int | None
    ) -> list[Entry] | None:
        channels = {keys.journal(group.channel).encode(): group.channel for group in groups}
        waiting: Sequence[Text] = () if block is None else ("BLOCK", block)
        places: Sequence[Text] = [*channels, *[start] * len(channels)]
        try:
            answer: Any = await self._reader.call(
                "XREADGROUP", "GROUP", self.name, self.consumer, "COUNT", count, *waiting, "STREAMS", *places
            )
        except ResponseError as fault:
            if str(fault).startswith(("NOGROUP", "UNBLOCKED")):
                return None
            raise unavailable(fault) from fault
        except (RedisError, OSError) as fault:
            raise unavailable(fault) from fault
        found = answer.items() if isinstance(answer, dict) else answer or []  # a dict by RESP3
        return [Entry.read(channels[journal], row) for journal, rows in found for row in rows if row[1]]

    async def settle(self, act: Act) -> str:
        """Carry out one verdict: `done`, `buried`, or `stale` when someone else settled the entry.

        Raises JournalUnavailable: the entry is where it was, and the call may be made again.
        """
        return checked([await self._acts.submit(act)])[0]

    async def _settle(self, acts: Sequence[Act]) -> Sequence[bytes]:
        names: list[Text] = [
            keys.ANNOUNCED,
            keys.JOURNALS,
            self._journal,
            keys.waiting(self.name),
            keys.DEAD,
            keys.dead(self.name),
        ]
        arguments: list[Text] = [self.name, *self._keeping, self._deadline]
        for act in acts:
            _spell(act, self.channel, names, arguments)
        return list(await self._scripts.run("settle", names, arguments))

    async def renew(self, entries: Iterable[str]) -> list[str]:
        """Keep the claim on these entries; returns those that are no longer ours. Raises JournalUnavailable."""
        lost = await self._scripts.run("renew", [self._journal], [self.name, self.consumer, *entries])
        return [entry.decode() for entry in lost]

    async def takeover(
        self, count: int, *, claim: float, held: Iterable[str], cursor: str
    ) -> tuple[str, list[Entry], int]:
        """Claim up to `count` entries unrenewed for `claim` seconds: next cursor, entries, and how many had no body.

        Raises JournalUnavailable.
        """
        following, rows, destroyed = await self._scripts.run(
            "takeover", [self._journal], [self.name, self.consumer, round(claim * 1000), count, cursor, *held]
        )
        return following.decode(), [Entry.read(self.channel, row) for row in rows], destroyed

    async def hand_back(self, *, claim: float) -> int:
        """Let go of all this consumer has pending so that another may take it over at once.

        Raises JournalUnavailable.
        """
        arguments: list[Text] = [self.name, self.consumer, round(claim * 1000), MOST_PENDING]
        return int(await self._scripts.run("hand_back", [self._journal], arguments))

    async def reap(self, *, idle: float) -> int:
        """Delete consumers that were silent for `idle` seconds and have nothing pending. Raises JournalUnavailable."""
        return int(await self._scripts.run("reap", [self._journal], [self.name, self.consumer, round(idle * 1000)]))


def _size(act: Act) -> int:
    """Bytes, about, that settling it sends to Redis."""
    reply = act.reply if isinstance(act, Complete) else None
    return len(act.entry.event) + (len(reply.to_json()) if reply else 0)


def _spell(act: Act, channel: str, names: list[Text], arguments: list[Text]) -> None:
    """Write one act as settle.lua reads it."""
    match act:
        case Complete(entry, None):
            arguments += "complete", entry.id, ""
        case Complete(entry, Event() as reply):
            names += event_keys(reply)
            arguments += "complete", entry.id, "reply", *event_arguments(reply)
        case Park(entry, letter, delay):
            names.append(keys.progress(letter.id))
            arguments += "park", entry.id, *_letter(entry, letter, channel), entry.since, round(delay * 1000)
        case Bury(entry, letter):
            names.append(keys.progress(letter.id))
            arguments += "bury", entry.id, *_letter(entry, letter, channel), entry.since, 0
        case Hold(entry, delay):
            arguments += "hold", entry.id, entry.event, channel, entry.since, round(delay * 1000)


def _letter(entry: Entry, letter: Letter, channel: str) -> Sequence[Text]:
    return (
        entry.event,
        channel,
        letter.id,
        letter.reason,
        "" if letter.status is None else letter.status,
        letter.attempts,
        letter.crashes,
        entry.only,
    )
