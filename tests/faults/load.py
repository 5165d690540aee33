"""Submissions, through every door in rotation, and what each must come to."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import httpx

from functions.distance.main import distance
from functions.payloads import Submission
from milepost.errors import BacklogFull, JournalUnavailable
from milepost.events.event import Event, now
from milepost.events.ids import new_id
from tests.faults.stack import Stack

PAUSE = 0.25
"""Seconds between two tries of a client."""

GIVE_UP = 120.0
"""Seconds after which a client stops trying: the row fails."""

NO_RETRY = 20
"""One in so many submissions to the gateway has no key and is tried once: nobody knows about it what has no answer."""


class Fate(StrEnum):
    OPEN = "open"
    ACCEPTED = "accepted"
    UNANSWERED = "unanswered"


@dataclass(eq=False)
class Sent:
    """One submission. `line` is the e-mail it must bring, like no other's."""

    number: int
    email: str
    lat: float
    long: float
    line: str
    id: str = field(default_factory=new_id)
    fate: Fate = Fate.OPEN

    @property
    def body(self) -> dict[str, str | float]:
        return {"email": self.email, "lat": self.lat, "long": self.long}


Door = Callable[[Sent], Awaitable[bool]]
"""Tries once; whether the submission was accepted."""


class Load:
    """What is submitted in one row."""

    def __init__(self, stack: Stack, *, rate: float) -> None:
        self.sent: list[Sent] = []
        self.refused: list[str] = []
        self.rate = rate
        self._stack = stack
        self._http = httpx.AsyncClient(timeout=10, limits=httpx.Limits(max_connections=None))
        self._doors: Sequence[Door] = (self._gateway, self._publish, self._ingress)

    async def close(self) -> None:
        await self._http.aclose()

    @property
    def accepted(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.fate is Fate.ACCEPTED]

    async def submit(self, count: int, *, doors: Sequence[str] = ()) -> None:
        """`count` submissions at the rate, each to an address of its own; returns when each has its fate."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                tasks.create_task(self._carry(self.new(), self._door(len(self.sent), doors)))
                ahead = begun + (number + 1) / self.rate - time.monotonic()
                await asyncio.sleep(max(0.0, ahead))

    async def together(self, sent: Sequence[Sent]) -> None:
        """All of these at once."""
        await asyncio.gather(*(self._carry(one, self._door(place, ())) for place, one in enumerate(sent)))

    def new(self, address: str | None = None) -> Sent:
        number = len(self.sent)
        email = address or f"s{number}@example.org"
        lat, long = -80 + number % 160, -170 + 0.01 * (number % 34_000)
        miles = distance(Submission(email=email, lat=lat, long=long)).distance_from_velocity
        line = f"Email sent to: {email}; Message: You are {miles} miles from Velocity."
        sent = Sent(number, email, lat, long, line)
        self.sent.append(sent)
        return sent

    def _door(self, place: int, names: Sequence[str]) -> Door:
        doors = [door for door in self._doors if not names or door.__name__.strip("_") in names]
        return doors[place % len(doors)]

    async def _carry(self, sent: Sent, door: Door) -> None:
        if door == self._gateway and sent.number % NO_RETRY == 0:
            sent.fate = Fate.ACCEPTED if await self._once(sent) else Fate.UNANSWERED
            return
        end = time.monotonic() + GIVE_UP
        while time.monotonic() < end:
            try:
                if await door(sent):
                    sent.fate = Fate.ACCEPTED
                    return
            except (httpx.HTTPError, JournalUnavailable, BacklogFull):
                pass
            await asyncio.sleep(PAUSE)
        self.refused.append(f"{sent.email} was not accepted in {GIVE_UP:g} s")
        sent.fate = Fate.UNANSWERED

    async def _once(self, sent: Sent) -> bool:
        try:
            return self._taken(sent, await self._http.post(f"{self._stack.gateway.url}/distance", json=sent.body))
        except httpx.HTTPError:
            return False

    async def _gateway(self, sent: Sent) -> bool:
        answer = await self._http.post(
            f"{self._stack.gateway.url}/distance", json=sent.body, headers={"Idempotency-Key": f"key-{sent.number}"}
        )
        return self._taken(sent, answer)

    async def _publish(self, sent: Sent) -> bool:
        await self._stack.journal.publish(self._event(sent, "/faults/publish"))
        return True

    async def _ingress(self, sent: Sent) -> bool:
        awake = [bridge for bridge in self._stack.bridges if bridge.alive and bridge not in self._stack.asleep]
        bridges = awake or self._stack.bridges
        bridge = bridges[sent.number % len(bridges)]
        headers, body = self._event(sent, "/faults/ingress").to_http()
        return self._taken(sent, await self._http.post(bridge.url, content=body, headers=headers))

    def _taken(self, sent: Sent, answer: httpx.Response) -> bool:
        if answer.status_code == httpx.codes.REQUEST_TIMEOUT:
            return False  # it was frozen while the body came; the request may be repeated (RFC 9110, section 15.5.9)
        if 400 <= answer.status_code < 500:
            self.refused.append(f"{sent.email} was refused: {answer.status_code} {answer.text[:100]}")
            return True
        if answer.is_success and answer.content:
            sent.id = answer.json()["id"]
        return answer.is_success

    def _event(self, sent: Sent, source: str) -> Event:
        return Event(id=sent.id, source=source, type="raw_input", time=now(), data=sent.body)
