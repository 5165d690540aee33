"""The world of broker mode: a bridge gives events to the Broker, which delivers them to `a` and brings back the rest.

The Broker brings what `a` answered, or the events that it gives up. If it misses our response it does so again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from milepost.events.event import Event
from milepost.journal import BROKER, Failure, Unreadable, Wiring, keys
from tests.model import delivery
from tests.model.delivery import IN, OUT, Deliveries, DeliveryWorld, check_bounded, places_of
from tests.model.world import Move, View, ViolationError, event_id

STAGE = "a"
UNREADABLE = "bridge"
"""Whose dead letters the messages are that are no events."""

NO_EVENT = b'{"id":"of no event"}'


@dataclass(frozen=True)
class Bounds(delivery.Bounds):
    gives_up: int = 0
    repeats: int = 0
    """How often the Broker brings something a second time."""
    messages: int = 0
    """Messages that are no events."""


@dataclass
class Brokered(Deliveries):
    """`with_broker`: events that the Broker has. `answered`: events whose answer it brought. `messages`: how many were
    kept.
    """

    with_broker: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    messages: int = 0

    def copy(self) -> "Brokered":
        own = {"with_broker": set(self.with_broker), "answered": set(self.answered), "messages": self.messages}
        return Brokered(**{**vars(super().copy()), **own})


class BrokerWorld(DeliveryWorld):
    """An event is in one place: with the bridge or the Broker, answered, dropped, or dead."""

    PROGRESS = frozenset({"publish", "read", "take_over", "complete", "retry_due", "trim", "answer"})
    OTHERS = (STAGE, UNREADABLE)
    DOORS = frozenset({"publish", "publish_again", "answer", "answer_again", "tell"})

    def __init__(self, url: str, bounds: Bounds) -> None:
        super().__init__(url, bounds, {BROKER: None})

    def __repr__(self) -> str:
        return f"BrokerWorld(url, {self.bounds!r})"

    async def begin(self) -> Brokered:
        first = await super().begin()
        return Brokered(**vars(first))

    async def beat(self) -> None:
        behind = {STAGE: Wiring([IN], [OUT], "")}
        await self.maintenance.beat({BROKER: Wiring([IN], [], "", behind=behind), "last": Wiring([OUT], [], "")})

    def moves(self, local: Any, view: View) -> Iterator[Move]:
        for move in super().moves(local, view):
            if move[0] not in {"replay", "drop"}:
                yield move
        yield from self._of_broker(local, view)
        if self.left(local, "messages"):
            yield ("tell",)
        for act in ("replay", "drop"):
            if self.left(local, f"{act}s"):
                yield from ((act, name) for name in (STAGE, BROKER) if dead(view, name))
        if local.messages and self.left(local, "drops"):
            yield "drop", UNREADABLE

    def _of_broker(self, local: Any, view: View) -> Iterator[Move]:
        for number, event in enumerate(self.events):
            if event.id in local.with_broker:
                yield "answer", number
                if self.left(local, "gives_up"):
                    yield "give_up", number
            if self.left(local, "repeats"):
                if event.id in local.answered:
                    yield "answer_again", number
                if event.id in dead(view, STAGE):
                    yield "give_up_again", number

    def entered(self, before: View, view: View) -> list[tuple[str, bytes]]:
        """The same, and the answers that a status has now and had not."""
        found = super().entered(before, view)
        for number, event in enumerate(self.events):
            had, has = (dict(one.others.get(keys.status(event.id), ())) for one in (before, view))
            if OUT.encode() in has.keys() - had.keys():
                found.append((OUT, self.reply(number).to_json().encode()))
        return found

    def reply(self, number: int) -> Event:
        return replace(self.events[number], source=f"/model/{STAGE}", type=OUT)

    async def do_answer(self, local: Any, number: int) -> None:
        if not await self.maintenance.announce(self.reply(number)):
            raise ViolationError("an answer was taken for a duplicate")
        local.with_broker.remove(self.events[number].id)
        local.answered.add(self.events[number].id)

    async def do_answer_again(self, local: Any, number: int) -> None:
        local.used["repeats"] += 1
        if await self.maintenance.announce(self.reply(number)):
            raise ViolationError("an answer was announced twice")

    async def do_give_up(self, local: Any, number: int) -> None:
        local.used["gives_up"] += 1
        await self.maintenance.bury_given_up(STAGE, self.events[number], Failure("HTTP 500", 500, 1, 0))
        local.with_broker.remove(self.events[number].id)

    async def do_give_up_again(self, local: Any, number: int) -> None:
        local.used["repeats"] += 1
        await self.maintenance.bury_given_up(STAGE, self.events[number], Failure("HTTP 500", 500, 2, 0))

    async def do_tell(self, local: Any) -> None:
        local.used["messages"] += 1
        await self.maintenance.unreadable([Unreadable(IN, NO_EVENT, "it is no event")])
        local.messages += 1

    async def do_drop(self, local: Any, stage: str) -> None:
        await super().do_drop(local, stage)
        if stage == UNREADABLE:
            local.messages = 0

    def write_status(self, local: Any, stage: str, settlement: Any, answer: object) -> None:
        super().write_status(local, stage, settlement, answer)
        if local.done[stage, settlement.id]:
            del local.done[stage, settlement.id]
            if settlement.id in local.with_broker:
                raise ViolationError(f"the Broker got {settlement.id} twice")
            local.with_broker.add(settlement.id)

    def check(self, local: Any, view: View) -> tuple[Any, bool]:
        finished = len(local.published) == len(self.events)
        for event in self.events:
            places = places_of(view, BROKER, event.id)
            places += [f"dead letter of {STAGE}"] * dead(view, STAGE).count(event.id)
            places += ["with the Broker"] * (event.id in local.with_broker)
            places += ["answered"] * (event.id in local.answered)
            places += ["dropped" for _, dropped in local.dropped if dropped == event.id]
            if len(places) != (event.id in local.published):
                raise ViolationError(f"{event.id} is in {places or 'no place'}")
            if event.id in local.answered and OUT.encode() not in dict(view.others[keys.status(event.id)]):
                raise ViolationError(f"the status of {event.id} lacks its answer")
            finished = finished and not {*places} & {"journal", "retries", "parked", "with the Broker"}
        if view.streams.get(keys.journal(OUT)):
            raise ViolationError("an event that the Broker delivers by itself is journaled")
        if len(dead(view, UNREADABLE)) != local.messages:
            raise ViolationError("a message that is no event was not kept")
        check_bounded(view)
        return (self.key(local, view), tuple(local.with_broker), tuple(local.answered)), finished


def dead(view: View, stage: str) -> list[str]:
    """Return the ids of a stage's dead letters."""
    return [event_id(body[b"event"]) for _, body in view.streams.get(keys.dead(stage), [])]
