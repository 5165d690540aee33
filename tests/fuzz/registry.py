"""All targets, and the function that runs one."""

from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz import bridge_target, gateway_target, openapi, stages
from tests.fuzz.target import Tally, Target
from tests.fuzz.world import World

TARGETS = {
    target.name: target
    for target in [*bridge_target.TARGETS, *stages.TARGETS, *gateway_target.TARGETS, *openapi.TARGETS]
}


def run(target: Target, world: World, n: int, tell: Any = None) -> Tally:
    """Send about `n` inputs, in batches. Raises AssertionError naming the input that broke a promise."""
    tally = Tally()
    faults: list[AssertionError] = []

    @settings(
        max_examples=max(1, n // target.batch),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(st.lists(target.inputs(world), min_size=target.batch, max_size=target.batch))
    def send(batch: list[Any]) -> None:
        if faults:
            raise faults[0]  # hypothesis asks again; servers remember, so the second time is not the first
        try:
            tally.add(target.send(world, batch))
        except AssertionError as fault:
            faults.append(fault)
            raise
        if tell:
            tell(tally)

    try:
        send()
    except Exception:
        if not faults:
            raise
        # Without what hypothesis adds: the whole batch, of which the message names the one at fault.
        raise AssertionError(f"{target.name}: {str(faults[0])[:5000]}").with_traceback(
            faults[0].__traceback__
        ) from None
    return tally
