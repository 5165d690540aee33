"""The world of a change of the delivery mode: bridge 0 serves the stages directly, bridge 1 the Broker alone.

Each may start, stop, crash, and freeze for over a minute at any moment, with events under way.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from milepost.errors import JournalUnavailable
from milepost.journal import BROKER, Entry, GroupMissing, Wiring, keys
from tests.model import delivery
from tests.model.delivery import IN, Deliveries, DeliveryWorld, check_bounded, places_of
from tests.model.world import Move, View, ViolationError

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

    Where two stages consume a channel, a completion by the Broker is one of both.
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
        }
    )
    OUTSIDE = frozenset({"crash", "freeze", "pass_time", "fall_behind", "fail_over"})
    SERVERS = ("read_only", "lost", "full")  # a beat that cannot be announced is written all the same, and made again

    def __init__(self, url: str, bounds: Bounds, stages: Sequence[str] = ("a",)) -> None:
        super().__init__(url, bounds, dict.fromkeys(stages))
        self.routes = (tuple(stages), (BROKER,))

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
        return Switching(first, names, set(), Counter(), Counter(), paused, ordered=[False] * 2, phases=phases)

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
        yield from self._failovers(local)

    def _steps(self, local: Any, bridge: int) -> Iterator[Move]:
        for stage in self.routes[bridge]:
            yield "read", bridge, stage
            yield "take_over", bridge, stage
        yield "beat", bridge
        yield "retry_due", bridge
        yield "trim", IN
        if self.left(local, "stops"):
            yield "stop", bridge
        if self.left(local, "crashes"):
            yield "crash", bridge
        if self.left(local, "replays"):
            yield from (("replay", stage) for stage in (*self.stages, BROKER))

    async def do_register(self, local: Any, bridge: int) -> None:
        if not await self.maintenance.switch(self.wirings(bridge)):
            local.phases[bridge] = "switched"

    async def do_show(self, local: Any, bridge: int) -> None:
        shown = await self.maintenance.beat(self.wirings(bridge))
        local.phases[bridge] = "shown" if shown else "down"

    async def do_ensure(self, local: Any, bridge: int) -> None:
        for stage in self.routes[bridge]:
            await self.consumer(stage, local.names[bridge]).ensure()
        local.phases[bridge] = "up"

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
        except JournalUnavailable as fault:
            if fault.code != "NOGROUP":
                raise
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

    def check(self, local: Any, view: View) -> tuple[Any, bool]:
        finished = len(local.published) == len(self.events)
        for stage in self.stages:
            for event in self.events:
                if event.id not in local.published:
                    continue
                places = [f"{name}: {place}" for name in (stage, BROKER) for place in places_of(view, name, event.id)]
                done = [name for name in (stage, BROKER) for _ in range(local.done[name, event.id])]
                if len(places) + len(done) != 1:
                    raise ViolationError(f"{event.id} of {stage}: completed by {done or 'no one'}, and in {places}")
                finished = finished and all(place.endswith("dead") for place in places)
        check_bounded(view)
        return (self._whole_key(local, view, (0, 1)), tuple(local.phases)), finished

    async def check_counts(self, local: Any, view: View) -> None:
        """The backlog counts what waits; not looked at here."""
