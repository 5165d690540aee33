"""What a bridge does for the journal beside carrying events: adopt, lead, wake, trim, beat."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from milepost import keys
from milepost.events.event import Event
from milepost.events.strict_json import dumps
from milepost.journal.group import Letter
from milepost.journal.records import BEAT_FRESH, event_arguments, event_keys
from milepost.journal.scripts import Scripts, Text, checked

MOST_UNREADABLE = 10_000
"""Messages kept under `dead:bridge`."""

LARGEST_UNREADABLE = 64_000
"""Bytes kept of one of them."""

HANDOVER = 1.0
"""Seconds for which a lease that was freed is kept for those who heard it."""

_ITS_OWN = re.compile(r"error .*(WRONGTYPE|NOPERM|can't access)", re.DOTALL)
"""How Redis refuses what it will never take. Its other refusals are for a state that ends."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """An event that a foreign program published, as `message`; `token` is that of the lease it was read under, if it
    was plain.
    """

    event: Event
    token: str | None
    message: bytes = b""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message that the bridge itself cannot carry."""

    channel: str
    message: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Wiring:
    """A route as the stages table shows it."""

    consumes: Sequence[str]
    emits: Sequence[str]
    url: str


class Upkeep:
    """Each method is one atomic step and raises JournalUnavailable."""

    def __init__(self, scripts: Scripts, keeping: tuple[int, int]) -> None:
        self._scripts = scripts
        self._keeping = keeping

    async def adopt(self, batch: Sequence[Foreign]) -> list[str]:
        """Journal foreign events. For each: `done`, `seen`, `not leading`, or `error` and why Redis refused it alone.

        Raises JournalUnavailable too if one was refused for the state that Redis is in.
        """
        answers = await self._scripts.run(
            "adopt",
            [keys.ANNOUNCED, keys.JOURNALS, keys.LEASE, *(key for item in batch for key in event_keys(item.event))],
            [*self._keeping, *(text for item in batch for text in (item.token or "", *event_arguments(item.event)))],
        )
        texts: list[str] = [answer.decode() for answer in answers]
        checked([answer for answer, text in zip(answers, texts, strict=True) if not _ITS_OWN.match(text)])
        return texts

    async def announce(self, event: Event) -> bool:
        """Tell a channel what a Broker carried on already, and mark it. False if it was seen before."""
        answers = await self._scripts.run(
            "announce", [keys.STAGES, *event_keys(event)], [*self._keeping, *event_arguments(event)]
        )
        return checked(answers) == ["done"]

    async def bury(self, stage: str, event: Event, letter: Letter, *, only: str) -> None:
        """Keep an event that a Broker gave up on, to be replayed for the route `only`."""
        await self._scripts.run(
            "bury",
            [keys.DEAD, keys.dead(stage), keys.progress(event.id)],
            [
                *(stage, self._keeping[1], event.to_json(), event.type, event.id, letter.reason),
                *("" if letter.status is None else letter.status, letter.attempts, only),
            ],
        )

    async def unreadable(self, batch: Sequence[Unreadable]) -> int:
        """Keep messages nobody can carry; returns how many older ones fell out."""
        texts: list[Text] = [MOST_UNREADABLE]
        for item in batch:
            texts += item.message[:LARGEST_UNREADABLE], item.channel, item.reason
        return int(await self._scripts.run("unreadable", [keys.DEAD, keys.dead("bridge")], texts))

    async def lease(self, token: str, *, ttl: float, tell: bool, heard: bool = False) -> str:
        """Take the lease for `ttl` seconds if it is free, renew it if it is ours; returns the token that holds it.

        Its channel hears the token when it is taken, and with `tell` when it is renewed as well. For a moment after a
        release it is only for those who `heard` of it, and the token is empty.
        """
        arguments: list[Text] = [token, round(ttl * 1000), "tell" if tell else "", "heard" if heard else ""]
        holder = await self._scripts.run("lease", [keys.JOURNALS, keys.LEASE], arguments)
        return str(holder.decode())

    async def release(self, token: str) -> bool:
        """Free the lease if it is ours, and tell the others. False if it was not ours any more."""
        return bool(await self._scripts.run("release", [keys.JOURNALS, keys.LEASE], [token, round(HANDOVER * 1000)]))

    async def beat(self, routes: Mapping[str, Wiring]) -> None:
        """Write these routes into the stages table, alive as of now, and tell its channel what is consumed."""
        texts: list[Text] = [round(BEAT_FRESH * 1000)]
        for name, wiring in routes.items():
            fields = {"consumes": list(wiring.consumes), "emits": list(wiring.emits), "url": wiring.url}
            texts += name, dumps(fields)
        await self._scripts.run("beat", [keys.JOURNALS, keys.STAGES, keys.ANNOUNCED], texts)

    async def wake(self, routes: Sequence[str], *, most: int) -> tuple[int, float | None]:
        """Put up to `most` due events of each route back; how many, and the seconds until the next is due."""
        woken, due = await self._scripts.run(
            "wake",
            [keys.JOURNALS, *(keys.waiting(route) for route in routes)],
            [keys.journal(""), most, *routes],
        )
        return int(woken), None if due < 0 else due / 1000

    async def trim(self, channel: str) -> tuple[str, int]:
        """Drop what every group has finished: what happened, and how many were dropped or, if refused, are left."""
        happened, count = await self._scripts.run(
            "trim", [keys.STAGES, keys.JOURNALS, keys.journal(channel)], [channel]
        )
        return happened.decode(), int(count)
