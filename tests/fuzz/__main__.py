"""`python -m tests.fuzz`: bad input at every door, and one table. Exit status 1 if a door broke a promise.

--n N         inputs for each door; some get more or fewer, as their cost is
--only NAME   doors whose name contains NAME; may be given more than once
--list        the names of the doors
--keep DIR    keep the data and the log of every process there
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.fuzz.registry import TARGETS, run
from tests.fuzz.target import Tally, Target
from tests.fuzz.world import World

N = 13_000
"""Inputs for each door: enough for 100,000 bad ones in all."""


@dataclass(frozen=True)
class Result:
    """What became of a target's inputs, in how many seconds, and the promise that was broken."""

    name: str
    tally: Tally
    seconds: float
    broken: str = ""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=N)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--keep", type=Path)
    return parser.parse_args()


def one(target: Target, world: World, n: int, progress: Progress) -> Result:
    started = time.monotonic()
    task = progress.add_task(target.name, total=None, detail="starting")
    last = Tally()

    def tell(tally: Tally) -> None:
        last.bad, last.good = tally.bad, tally.good
        progress.update(task, detail=f"{tally.bad + tally.good} of {n}")

    broken = ""
    try:
        run(target, world, n, tell)
    except Exception as fault:  # noqa: BLE001 - a door that cannot be judged must not cost the others
        broken = f"{fault!s:.5000}"
    finally:
        progress.remove_task(task)
    return Result(target.name, last, time.monotonic() - started, broken)


def table(results: list[Result]) -> Table:
    made = Table("door", "inputs", "bad", "good", "seconds", "", box=None, header_style="bold")
    for column in made.columns[1:5]:
        column.justify = "right"
    for result in results:
        tally = result.tally
        counts = (tally.bad + tally.good, tally.bad, tally.good)
        verdict = "broke a promise" if result.broken else "held"
        made.add_row(
            result.name,
            *(f"{count:,}" for count in counts),
            f"{result.seconds:.0f}",
            verdict,
            style="red" if result.broken else "",
        )
    return made


def main() -> int:
    given = options()
    console = Console(width=None if sys.stdout.isatty() else 200)
    targets = [target for name, target in TARGETS.items() if not given.only or any(part in name for part in given.only)]
    if given.list or not targets:
        console.print("\n".join(TARGETS))
        return 0 if given.list else 2
    results: list[Result] = []
    columns = TextColumn("{task.description}: {task.fields[detail]}"), TimeElapsedColumn()
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=console, transient=True) as progress:
        for target in targets:
            # One that broke a promise may have left its servers in any state: each target has a world of its own.
            with World((given.keep or Path(folder)) / target.name.replace(" ", "-")) as world:
                results.append(one(target, world, round(given.n * target.share), progress))
            if results[-1].broken:
                progress.console.print(results[-1].broken, markup=False, highlight=False)
    whole = Tally()
    for result in results:
        whole.add(result.tally)
    console.print(table([*results, Result("all", whole, sum(result.seconds for result in results))]))
    return 1 if any(result.broken for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
