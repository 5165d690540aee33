"""The world of a change of the delivery mode: bridge 0 serves the stages directly, bridge 1 the Broker alone.

Each may start, stop, crash, and freeze for over a minute at any moment, with events under way. With `keys` the stages
are ordered by key in direct mode. Events that a switch moves have no order any more.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from milepost.errors import JournalUnavailable
from milepost.journal import BROKER, Entry, GroupMissing, StageNotServed, Wiring, keys
from tests.model import delivery
from tests.model.delivery import DAY, IN, Deliveries, DeliveryWorld, check_bounded, places_of
from tests.model.world import HOUR, Move, View, ViolationError

PHASES = ("down", "switched", "shown", "up")
"""A bridge takes over from the other mode, shows its routes, makes its groups, and serves."""


@dataclass(frozen=True)
class Bounds(delivery.Bounds):
    stops: int = 0
    freezes: int = 0


@dataclass
class Switching(Deliveries):
    phases: list[str] = field(default_factory=list)

    def copy(self) -> "Switching":
        return Switching(**{**vars(super().copy()), "phases": list(self.phases)})


class SwitchWorld(DeliveryWorld):
    """For each stage an event is in one place, be it the stage's or the Broker's, or was completed once by either.

    Where two stages consume a channel, a completion by the Broker is one of both. A stage that was switched away from
    has dead letters at most. Nothing is switched away from a paused stage.
    """

    PROGRESS = frozenset(
        {
            "publish",
            "register",
            "show",
            "ensure",
            "beat",
            "read",
            "take_over",
            "complete",
            "retry_due",
            "trim",
            "pass_time",
            "come_due",
            "resume",
            "look_for_pauses",
        }
    )
    OUTSIDE = frozenset({"crash", "freeze", "pass_time", "come_due", "fall_behind", "fail_over"})
    SERVERS = ("read_only", "lost", "full")  # a beat that cannot be announced is written all the same, and made again

    def __init__(self, url: str, bounds: Bounds, stages: Sequence[str] = ("a",)) -> None:
        super().__init__(url, bounds, dict.fromkeys(stages))
        self.routes = (tuple(stages), (BROKER,))
        self.groups = (*stages, BROKER)

    def __repr__(self) -> str:
        return f"SwitchWorld(url, {self.bounds!r}, {tuple(self.stages)!r})"

    def wirings(self, bridge: int) -> dict[str, Wiring]:
        return {name: Wiring([IN], [], "") for name in self.routes[bridge]}

    async def begin(self) -> Switching:
        await self.maintenance.beat(self.wirings(0))
        for stage in self.stages:
            await self.consumer(stage, "b0").ensure()
        first: list[dict[Any, Entry]] = [{}, {}]
        names, paused, phases = ["b0", "b1"], [frozenset[str]()] * 2, ["up", "down"]
        ordered = [bool(self.bounds.keys), False]
        return Switching(first, names, set(), Counter(), Counter(), paused, ordered=ordered, phases=phases)

    def moves(self, local: Any, view: View) -> Iterator[Move]:
        yield from self._publishes(local)
        for bridge, phase in enumerate(local.phases):
            yield from self._settlements(local, bridge)
            if phase == "down":
                yield "register", bridge
                if any(view.served.get(name) for name in self.routes[bridge]):
                    yield "pass_time", bridge
            elif self.left(local, "freezes"):
                yield "freeze", bridge
            if phase == "switched":
                yield "show", bridge
            elif phase == "shown":
                yield "ensure", bridge
            elif phase == "up":
                yield from self._steps(local, bridge)
        yield from [("come_due",)] if local.delayed else []
        if self.left(local, "replays"):
            yield from (("replay", name) for name in self.groups if view.streams.get(keys.dead(name)))
        if self.bounds.pauses:
            yield from self._pauses_of(local, view)
        yield from self._failovers(local)

    def _pauses_of(self, local: Any, view: View) -> Iterator[Move]:
        paused = paused_in(view)
        yield from (("resume", name) for name in sorted(paused))
        if self.left(local, "pauses"):
            yield from (("pause", name) for name in self.groups if name in view.served and name not in paused)
        for bridge, phase in enumerate(local.phases):
            if phase == "up" and local.paused[bridge] != paused:
                yield "look_for_pauses", bridge

    def _steps(self, local: Any, bridge: int) -> Iterator[Move]:
        for stage in self.routes[bridge]:
            if stage not in local.paused[bridge]:
                yield "read", bridge, stage
                yield "take_over", bridge, stage
        yield "beat", bridge
        yield "retry_due", bridge
        yield "trim", IN
        if self.left(local, "stops"):
            yield "stop", bridge
        if self.left(local, "crashes"):
            yield "crash", bridge

    async def do_register(self, local: Any, bridge: int) -> None:
        if not await self.maintenance.switch(self.wirings(bridge)):
            local.phases[bridge] = "switched"
            local.delayed -= {row for row in local.delayed if row[0] not in self.routes[bridge]}  # they are retries now

    async def do_show(self, local: Any, bridge: int) -> None:
        shown = await self.maintenance.beat(self.wirings(bridge))
        local.phases[bridge] = "shown" if shown else "down"

    async def do_ensure(self, local: Any, bridge: int) -> None:
        for stage in self.routes[bridge]:
            await self.consumer(stage, local.names[bridge]).ensure()
        local.phases[bridge] = "up"
        local.paused[bridge] = await self.journal.admin.paused()

    async def do_beat(self, _: Any, bridge: int) -> None:
        await self.maintenance.beat(self.wirings(bridge))

    async def do_freeze(self, local: Any, bridge: int) -> None:
        """A bridge that lives has not beaten for over a minute."""
        local.used["freezes"] += 1
        await self.do_pass_time(local, bridge)

    async def do_pass_time(self, _: Any, bridge: int) -> None:
        for name in self.routes[bridge]:
            if text := await self.connection.call("HGET", keys.STAGES, name):
                await self.connection.call("HSET", keys.STAGES, name, text.rpartition(b":")[0] + b":0}")

    async def do_read(self, local: Any, bridge: int, stage: str) -> None:
        try:
            await super().do_read(local, bridge, stage)
        except GroupMissing:
            local.phases[bridge] = "down"

    async def do_take_over(self, local: Any, bridge: int, stage: str) -> None:
        try:
            await super().do_take_over(local, bridge, stage)
        except GroupMissing:
            local.phases[bridge] = "down"

    async def do_retry_due(self, _: Any, bridge: int) -> None:  # type: ignore[override]
        _, _, refused = await self.maintenance.retry_due(self.routes[bridge], most=8)
        if refused:
            raise JournalUnavailable(str(refused))

    async def do_trim(self, _: Any, channel: str) -> None:
        await self.maintenance.trim(channel)

    async def do_stop(self, local: Any, bridge: int) -> None:
        local.used["stops"] += 1
        for stage in self.routes[bridge]:
            await self.consumer(stage, local.names[bridge]).hand_back(claim=0.001)
        local.claimed[bridge] = {}
        local.phases[bridge] = "down"

    async def do_crash(self, local: Any, bridge: int) -> None:
        await super().do_crash(local, bridge)
        local.phases[bridge] = "down"

    async def do_replay(self, local: Any, stage: str) -> None:
        """Dead letters stay while no bridge serves their channel."""
        with suppress(StageNotServed):
            await super().do_replay(local, stage)

    async def do_come_due(self, local: Any) -> None:
        for member in await self.connection.call("ZRANGE", keys.parked(BROKER), 0, -1):
            await self.connection.call("ZADD", keys.parked(BROKER), "XX", 0, member)
        await super().do_come_due(local)

    def check(self, local: Any, view: View) -> tuple[Any, bool]:
        finished = len(local.published) == len(self.events)
        for stage in self.stages:
            for event in self.events:
                if event.id not in local.published:
                    continue
                places = [f"{name}: {place}" for name in (stage, BROKER) for place in places_of(view, name, event.id)]
                for name in (stage, BROKER):
                    if (name, event.id) in local.delayed and places != [f"{name}: parked"]:
                        raise ViolationError(f"{event.id} waits a day for {name}, and is in {places}")
                done = [name for name in (stage, BROKER) for _ in range(local.done[name, event.id])]
                if len(places) + len(done) != 1:
                    raise ViolationError(f"{event.id} of {stage}: completed by {done or 'no one'}, and in {places}")
                finished = finished and all(place.endswith("dead") for place in places)
        check_bounded(view, longest=HOUR + DAY * bool(local.used["delays"]))
        self.check_left(view)
        return (self._whole_key(local, view, (0, 1)), tuple(local.phases)), finished

    def check_left(self, view: View) -> None:
        """A name without a row in the stages table has nothing but dead letters, and is not paused."""
        for name in self.groups:
            if name not in view.served:
                own = [keys.parked(name), *(key(name, IN) for key in (keys.retries, keys.held, keys.in_hand))]
                left = [key for key in own if key in view.ttl] + ["a group"] * (name in view.groups[keys.journal(IN)])
                if left := left + ["a pause"] * (name in paused_in(view)):
                    raise ViolationError(f"{name} was switched away from, and has {left}")

    async def check_counts(self, _: Any, view: View) -> None:
        """The depths count the events that wait for the stage or the Broker, the backlog counts them once each."""
        places = {name: [at for event in self.events for at in places_of(view, name, event.id)] for name in self.groups}
        for depth in await self.journal.admin.depths({name: [IN] for name in view.served}):
            counted = Counter(at if at in {"parked", "dead"} else "journaled" for at in places[depth.stage])
            expected = counted["journaled"], counted["parked"], counted["dead"], places[depth.stage].count("held")
            oldest = bool(counted["journaled"] or counted["parked"])
            if (depth.journaled, depth.parked, depth.dead, depth.held) != expected or (depth.oldest is None) == oldest:
                raise ViolationError(f"{depth} where {places[depth.stage]} are")
        elsewhere = [at for some in places.values() for at in some if at != "journal"]
        expected_backlog = max(some.count("journal") for some in places.values()) + len(elsewhere)
        if (backlog := await self.journal.backlog()) != expected_backlog:
            raise ViolationError(f"the backlog is {backlog}, and {expected_backlog} events wait")


def paused_in(view: View) -> frozenset[str]:
    return frozenset(stage.decode() for stage in view.others.get(keys.PAUSED, ()))
