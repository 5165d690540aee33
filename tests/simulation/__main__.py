"""`make simulate`: one run after another, each of its own seed, and what each violates.

A seed that violates something does so again. Its command is printed, which also tells what happens in it.
"""

import argparse
import gc
import logging
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.simulation.planted import BY_NAME, PLANTED
from tests.simulation.redis_server import WHY_NOT, Server
from tests.simulation.run import Plan, Result, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone, and tell what happens in it")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--n", type=int, default=3000, help="how many seeds")
    parser.add_argument("--plant", choices=sorted(BY_NAME), help="put this fault into the bridge first")
    given = parser.parse_args()
    if WHY_NOT:
        print(WHY_NOT)
        return 2
    logging.getLogger("milepost").setLevel(logging.CRITICAL)
    gc.freeze()  # what is loaded by now need not be looked at after each run
    seeds = range(given.first, given.first + given.n) if given.seed is None else [given.seed]
    began, results = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder)) as server, pytest.MonkeyPatch.context() as patch:
        plan = Plan()
        if given.plant:
            BY_NAME[given.plant](patch)
            _, plan = PLANTED[BY_NAME[given.plant]]
        for seed in seeds:
            result = simulate(server, seed, plan)
            results.append(result)
            if given.seed is not None:
                print("\n".join(result.story))
            for violation in result.violations:
                print(f"seed {seed}: {violation}", flush=True)
            if result.violations:
                print(f"    again: {again(seed, given.plant)}", flush=True)
    print(summary(results, time.monotonic() - began))
    return 1 if any(result.violations for result in results) else 0


def again(seed: int, plant: str | None) -> str:
    """Return the command that runs this seed again, and tells what happens in it."""
    planted = f" --plant {plant}" if plant else ""
    return f"make simulate ARGS='--seed {seed}{planted}'"


def summary(results: list[Result], seconds: float) -> str:
    virtual, deliveries = sum(one.seconds for one in results), sum(one.deliveries for one in results)
    return (
        f"{len(results)} seeds in {seconds:.0f} s, {len(results) / seconds * 60:.0f} a minute; {virtual:.0f} s on the "
        f"virtual clock, {deliveries} deliveries, {sum(one.commands for one in results)} commands to Redis; "
        f"{sum(bool(one.violations) for one in results)} seeds with a violation\n"
        f"digest {results[-1].digest[:16]} of the last"
    )


if __name__ == "__main__":
    sys.exit(main())
