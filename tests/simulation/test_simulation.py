"""A few seeds, and that the simulation finds faults. `make simulate` runs thousands."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.servers import ROOT
from tests.simulation.planted import PLANTED, Plant, no_renewal
from tests.simulation.redis_server import WHY_NOT, Server
from tests.simulation.run import Plan, Result, simulate
from tests.simulation.stages import EMITS

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

SEEDS = 40
"""Seeds within which a planted fault must be found."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    log = logging.getLogger("milepost")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("simulation")) as server:
        yield server


def find(server: Server, plant: Plant) -> Result | None:
    pattern, plan = PLANTED[plant]
    for seed in range(SEEDS):
        result = simulate(server, seed, plan)
        if any(pattern in violation for violation in result.violations):
            return result
    return None


def test_server_tells_the_virtual_time(server: Server) -> None:
    line = server.open()
    try:
        for now in (1.5, 7200.25, 3.0):
            server.set_clock(now)
            line.call("DEL", "stream")
            assert line.call("XADD", "stream", "*", "a", "b") == b"%d-0" % (1_800_000_000_000 + now * 1000)
            line.call("SET", "key", "value", "PX", 1000)
            server.set_clock(now + 0.999)
            assert line.call("GET", "key") == b"value"
            server.set_clock(now + 1.001)
            assert line.call("GET", "key") is None
    finally:
        line.close()


def test_promises_hold_in_a_few_runs(server: Server) -> None:
    plans = [Plan()] * 3 + [Plan(ordered=tuple(EMITS), acts=("_fail_over", "_crash_one"), trouble=0.3)]
    results = [simulate(server, seed, plan) for seed, plan in enumerate(plans)]
    assert [result.violations for result in results] == [[]] * len(plans)
    assert all(result.deliveries > 20 for result in results)
    assert len({result.digest for result in results}) == len(plans)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_planted_fault_is_found(server: Server, monkeypatch: pytest.MonkeyPatch, plant: Plant) -> None:
    plant(monkeypatch)
    assert find(server, plant) is not None


def test_seed_reproduces_a_violation(server: Server) -> None:
    """In the same process, and in one of its own whose sets of texts have another order."""
    with pytest.MonkeyPatch.context() as patch:
        no_renewal(patch)
        found = find(server, no_renewal)
        assert found is not None
        _, plan = PLANTED[no_renewal]
        assert simulate(server, found.seed, plan) == found
    assert simulate(server, found.seed, plan).violations == []
    command = [sys.executable, "-m", "tests.simulation", "--plant", "no-renewal", "--seed", str(found.seed)]
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    said = ended.stdout
    print(found.seed, found.digest[:8], found.violations, said, ended.stderr)
    assert f"digest {found.digest[:16]} " in said
    assert f"make simulate ARGS='--seed {found.seed} --plant no-renewal'" in said
    assert found.violations == [line.partition(": ")[2] for line in said.splitlines() if line.startswith("seed ")]
