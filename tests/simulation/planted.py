"""Faults that are put into the bridge, to see that the simulation finds them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from milepost.bridge.ingest.subscriber import Subscriber
from milepost.bridge.worker import Worker
from milepost.journal import Scripts, TakenOver, keys
from milepost.journal.consumer import Consumer
from milepost.journal.scripts import SCRIPTS, Text
from milepost.journal.shared_connection import SharedConnection
from tests.simulation.run import Plan
from tests.simulation.stages import EMITS

Plant = Callable[[pytest.MonkeyPatch], None]


class _Forgetful(dict[Any, Any]):
    """Has every entry, and says that it has none."""

    def __contains__(self, _: object) -> bool:
        return False

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def no_renewal(patch: pytest.MonkeyPatch) -> None:
    """A bridge does not renew its claims."""

    async def renew(_: Worker) -> None:
        return

    patch.setattr(Worker, "renew", renew)


def no_look_at_deliveries(patch: pytest.MonkeyPatch) -> None:
    """A bridge starts entries that it delivers already: after a failed read it rereads all that it has pending."""
    made = Worker.__init__

    def init(self: Worker, *given: Any, **named: Any) -> None:
        made(self, *given, **named)
        self.in_delivery = _Forgetful()

    patch.setattr(Worker, "__init__", init)


def no_takeover(patch: pytest.MonkeyPatch) -> None:
    """No bridge takes over the entries of a crashed one."""

    async def without(_self: Consumer, _most: int, *, claim: float) -> TakenOver:
        return TakenOver([], 0)

    patch.setattr(Consumer, "take_over", without)


def late_takeover(patch: pytest.MonkeyPatch) -> None:
    """A bridge takes over entries only after twice the claim time."""
    take_over = Consumer.take_over

    async def later(self: Consumer, most: int, *, claim: float) -> TakenOver:
        return await take_over(self, most, claim=2 * claim)

    patch.setattr(Consumer, "take_over", later)


def settled_by_anyone(patch: pytest.MonkeyPatch) -> None:
    """A settlement that is repeated after a lost reply is made twice."""
    _in_scripts(patch, "if known[entry] then", "if true then")


def split_in_part(patch: pytest.MonkeyPatch) -> None:
    """A split journals all of its answers but the last."""
    _in_scripts(patch, "local added, channels = {}, {}", "local added, channels = {}, {}\ntable.remove(answers)")


def order_ignored(patch: pytest.MonkeyPatch) -> None:
    """An ordered stage gets several events of a key together."""
    _in_scripts(patch, "elseif is_behind(entry, key) then", "elseif false then")


def released_when_parked(patch: pytest.MonkeyPatch) -> None:
    """An ordered stage gets the next event of a key while an earlier one is parked."""
    _in_scripts(patch, "if not row.kept then ordered", "if true then ordered")


def no_dedup(patch: pytest.MonkeyPatch) -> None:
    """A producer's retry is journaled twice."""
    _in_scripts(patch, "'NX', 'PX', dedup", "'PX', dedup")


def no_wait(patch: pytest.MonkeyPatch) -> None:
    """A door accepts an event that the replica does not have yet."""

    async def call(self: SharedConnection, _: int, *command: Text) -> Any:
        return await self.call(*command)

    patch.setattr(SharedConnection, "call_replicated", call)


def lease_kept(patch: pytest.MonkeyPatch) -> None:
    """A bridge that stops announces no release, so no bridge adopts messages until the lease ends."""

    async def release(self: Subscriber) -> None:
        self._lead_ended.set()

    patch.setattr(Subscriber, "release_lease", release)


def _in_scripts(patch: pytest.MonkeyPatch, text: str, instead: str) -> None:
    assert any(text in script for script in SCRIPTS.values())

    async def broken(self: Scripts, _: str, script: str, arguments: Iterable[Text]) -> object:
        return await self.call("EVAL", script.replace(text, instead), 1, keys.JOURNALS, *arguments)

    patch.setattr(Scripts, "run", broken)


PLANTED: dict[Plant, tuple[str, Plan]] = {
    no_renewal: ("which had no trouble", Plan(acts=(), trouble=0.3, slow=True)),
    no_look_at_deliveries: ("both from", Plan(acts=("_flaky_one",) * 4, gentle=False, trouble=0.3, slow=True)),
    no_takeover: ("without effect", Plan(acts=("_crash_one",) * 4, gentle=False, trouble=0.3, slow=True)),
    late_takeover: ("delivered again late", Plan(acts=("_crash_one",), gentle=False, trouble=0.3, slow=True)),
    settled_by_anyone: ("published 2 times", Plan(acts=("_flaky_one",) * 8, gentle=False)),
    split_in_part: ("pieces were not published", Plan(acts=(), trouble=0.0)),
    order_ignored: ("out of order", Plan(acts=(), trouble=0.0, ordered=tuple(EMITS))),
    released_when_parked: ("before an earlier event", Plan(acts=(), trouble=0.3, ordered=tuple(EMITS))),
    no_dedup: ("published 2 times", Plan(acts=("_flaky_producers",) * 4, gentle=False)),
    no_wait: ("without effect", Plan(acts=("_fail_over",) * 4, gentle=False)),
    lease_kept: ("adopted 0 times", Plan(acts=("_stop_one",) * 4, gentle=True)),
}
"""The fault, a part of the violation that it causes, and runs in which most seeds find it."""

BY_NAME = {plant.__name__.replace("_", "-"): plant for plant in PLANTED}
