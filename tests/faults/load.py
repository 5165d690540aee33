"""Submissions through every door in rotation, and the mail that each must bring."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import httpx

from functions.distance.main import distance
from functions.payloads import Submission
from milepost.errors import BacklogFull, JournalUnavailable
from milepost.events.event import Event, now
from milepost.events.ids import new_id
from tests.faults.checker import is_refused, is_success
from tests.faults.history import Operation
from tests.faults.stack import ADDRESSES, Stack
from tests.faults.state import mail_line

PAUSE = 0.25
"""Seconds between two tries of a client."""

GIVE_UP = 120.0
"""Seconds after which a client stops trying: the row fails."""

NO_RETRY = 20
"""One in so many submissions to the gateway has no key and is tried once. Without an answer it may bring a mail."""


PORTION = 2000
"""Submissions that `fill` publishes at once."""

PLACES = 2000
"""Different places; more than submissions that share an address."""


@cache
def miles_from(lat: float, long: float) -> float:
    """The distance that the mail must say."""
    return distance(Submission(email="s@example.org", lat=lat, long=long)).distance_from_velocity


class Acceptance(StrEnum):
    """Whether a door has accepted a submission. Of one that is `unanswered` nobody knows."""

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
    id: str = ""
    """The event's id, once the client knows it: made by itself, or read from the gateway's answer."""
    acceptance: Acceptance = Acceptance.OPEN

    @property
    def body(self) -> dict[str, str | float]:
        return {"email": self.email, "lat": self.lat, "long": self.long}


def is_full(answer: httpx.Response) -> bool:
    """Whether a door refuses because the backlog is full."""
    said = any(text in answer.text for text in FULL)
    return answer.status_code == 503 and said and answer.headers.get("retry-after", "").isdigit()


Door = Callable[[Sent], Awaitable[tuple[int, bool]]]
"""Tries once; the HTTP status, and whether the try was refused since the backlog is full."""

FULL = "Nothing was accepted", "the backlog is at its limit", "events wait for them"
"""What gateway and bridge say then."""


class Load:
    """The submissions of one row."""

    def __init__(self, stack: Stack, *, rate: float) -> None:
        self.sent: list[Sent] = []
        self.refused: list[str] = []
        self.answered = 0
        """Tries that had an answer."""
        self.filled = 0
        self.rate = rate
        self._stack = stack
        self._http = httpx.AsyncClient(timeout=10, limits=httpx.Limits(max_connections=None))
        self._doors: Sequence[Door] = (self._gateway, self._publish, self._ingress)

    async def close(self) -> None:
        await self._http.aclose()

    @property
    def accepted(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.acceptance is Acceptance.ACCEPTED]

    async def submit(self, count: int, *, doors: Sequence[str] = ()) -> None:
        """`count` submissions at the rate, each to an address of its own; returns when no client tries any more."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                tasks.create_task(self._carry(self.new(), self._door(len(self.sent), doors)))
                ahead = begun + (number + 1) / self.rate - time.monotonic()
                await asyncio.sleep(max(0.0, ahead))

    async def fill(self, count: int) -> None:
        """Publish `count` submissions as fast as can be, so that most of them wait in the journal."""
        self.filled = count
        for first in range(0, count, PORTION):
            portion = [self.new() for _ in range(min(PORTION, count - first))]
            await asyncio.gather(*(self._carry(one, self._publish) for one in portion))

    async def is_refused_as_full(self) -> bool:
        """Submit once to the gateway. Returns whether it refuses because the backlog is full, and says for how long."""
        sent = self.new()
        attempt = await self._try(sent, self._gateway_once)
        sent.acceptance = Acceptance.ACCEPTED if is_success(attempt) else Acceptance.UNANSWERED
        return attempt.full

    async def together(self, sent: Sequence[Sent]) -> None:
        """All of these at once."""
        await asyncio.gather(*(self._carry(one, self._door(place, ())) for place, one in enumerate(sent)))

    def new(self, address: str | None = None) -> Sent:
        number = len(self.sent)
        email = address or f"s{number % ADDRESSES if self._stack.options.order else number}@example.org"
        place = number % PLACES
        lat, long = -80 + place % 160, -170 + 0.01 * place
        miles = miles_from(lat, long)
        sent = Sent(number, email, lat, long, mail_line(email, miles))
        self.sent.append(sent)
        return sent

    def _door(self, place: int, names: Sequence[str]) -> Door:
        doors = [door for door in self._doors if not names or door.__name__.strip("_") in names]
        return doors[place % len(doors)]

    async def _carry(self, sent: Sent, door: Door) -> None:
        if door == self._gateway and sent.number % NO_RETRY == 0:
            sent.acceptance = (
                Acceptance.ACCEPTED if is_success(await self._try(sent, self._gateway_once)) else Acceptance.UNANSWERED
            )
            return
        end = time.monotonic() + GIVE_UP
        while True:
            attempt = await self._try(sent, door)
            if is_success(attempt):
                sent.acceptance = Acceptance.ACCEPTED
                return
            if is_refused(attempt) or time.monotonic() > end:
                self.refused.append(f"{sent.email} was not accepted: {attempt.answer}")
                sent.acceptance = Acceptance.UNANSWERED
                return
            await asyncio.sleep(PAUSE)

    async def _try(self, sent: Sent, door: Door) -> Operation:
        """Try once. The history keeps the try and its answer."""
        begin, status, full = time.monotonic(), None, False
        with contextlib.suppress(httpx.HTTPError, JournalUnavailable):
            status, full = await door(sent)
        end = None if status is None else time.monotonic()
        name = door.__name__.strip("_")
        self.answered += end is not None
        attempt = Operation("publish", begin, end, sent.id or None, status, name, sent.email, sent.line, full)
        self._stack.history.add(attempt)
        return attempt

    async def _gateway(self, sent: Sent) -> tuple[int, bool]:
        return await self._submit(sent, {"Idempotency-Key": f"key-{sent.number}"})

    async def _gateway_once(self, sent: Sent) -> tuple[int, bool]:
        return await self._submit(sent, {})

    async def _submit(self, sent: Sent, headers: dict[str, str]) -> tuple[int, bool]:
        answer = await self._http.post(f"{self._stack.gateway.url}/distance", json=sent.body, headers=headers)
        if answer.is_success:
            sent.id = answer.json()["id"]
        return answer.status_code, is_full(answer)

    async def _publish(self, sent: Sent) -> tuple[int, bool]:
        try:
            await self._stack.journal.publish(self._event(sent, "/faults/publish"))
        except BacklogFull:
            return 503, True
        return 202, False

    async def _ingress(self, sent: Sent) -> tuple[int, bool]:
        awake = [bridge for bridge in self._stack.bridges if bridge.alive and bridge not in self._stack.asleep]
        bridges = awake or self._stack.bridges
        bridge = bridges[sent.number % len(bridges)]
        headers, body = self._event(sent, "/faults/ingress").to_http()
        answer = await self._http.post(bridge.url, content=body, headers=headers)
        return answer.status_code, is_full(answer)

    def _event(self, sent: Sent, source: str) -> Event:
        sent.id = sent.id or new_id()
        return Event(id=sent.id, source=source, type="raw_input", time=now(), data=sent.body)
