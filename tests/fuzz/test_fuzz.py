"""A short run of the fuzzer: some hundred inputs for each door. `make fuzz` sends over 100,000."""

from collections.abc import Iterator

import pytest

from tests.fuzz.registry import TARGETS, run
from tests.fuzz.target import Target
from tests.fuzz.world import World

N = 150


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("fuzz")) as world:
        yield world


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_bad_input_breaks_no_door_and_is_never_accepted(world: World, target: Target) -> None:
    """No 5xx, no dead process, nothing accepted that the oracle refuses; a good input after it is accepted."""
    assert run(target, world, round(N * target.share)).bad
