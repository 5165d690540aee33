"""`python -m benchmarks`: us and the alternatives in turn, and one table.

--list         the names of the benchmarks
--only NAME    the one of this name, else those whose name contains NAME; may be given more than once
--repeat N     trials of each contender; the median counts
--json FILE    the table as JSON; written after each benchmark
--beside SHARE beside a process that takes this share of a core, such as 0.33 or 1
--growth       instead: how cost grows, and a plot of each curve in benchmarks/plots/
--large        with --growth: a backlog of a million too
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks import growth, report
from benchmarks.bench import OURS, Bench, Measured
from benchmarks.beside import taking
from benchmarks.harness import Harness, compile_packages
from benchmarks.registry import BENCHES


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--beside", type=float, default=0.0)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--large", action="store_true")
    return parser.parse_args()


def named(only: Sequence[str]) -> list[Bench]:
    """Return the benchmark of each name, or those whose names contain it; without names all."""
    exact = {one.name for one in BENCHES}
    return [
        one
        for one in BENCHES
        if not only or any(one.name == name if name in exact else name in one.name for name in only)
    ]


def compete(bench: Bench, repeat: int, console: Console) -> dict[str, Measured]:
    """Every contender `repeat` times, in turn; the medians, by contender."""
    entries = [(name, trial, "everysec") for name, trial in bench.contenders.items()]
    if bench.durable:
        entries.append((report.DURABLE, bench.contenders[OURS], "always"))
    trials: dict[str, list[Measured]] = {name: [] for name, _, _ in entries}
    for turn in range(repeat):
        for name, trial, fsync in entries:
            with console.status(f"{bench.name}, {turn + 1} of {repeat}: {name}"), Harness(fsync=fsync) as harness:
                measured = trial(harness)
            trials[name].append(measured)
            shown = ", ".join(f"{key} {report.figure(value)}" for key, value in measured.items())
            console.print(f"{bench.name}, {turn + 1} of {repeat}: {name}: {shown}", highlight=False)
    return {name: {key: median(one[key] for one in found) for key in found[0]} for name, found in trials.items()}


def main() -> int:
    """Exit status 1 if a goal was missed."""
    given = options()
    chosen = named(given.only)
    if given.list:
        print("\n".join(one.name for one in chosen))
        return 0
    console = Console(stderr=True)
    compile_packages()
    with taking(given.beside):
        return measure(given, chosen, console)


def measure(given: argparse.Namespace, chosen: Sequence[Bench], console: Console) -> int:
    """Run the benchmarks, or the growth curves. Return the exit status."""
    if given.growth:
        curves = growth.run(given.only, large=given.large, console=console)
        if given.json:
            given.json.write_text(json.dumps(curves, indent=1) + "\n")
        return 0
    rows: list[report.Row] = []
    for bench in chosen:
        rows += report.rows(bench, compete(bench, given.repeat, console))
        if given.json:
            found: list[dict[str, Any]] = [{**row.as_json(), "beside": given.beside} for row in rows]
            given.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    report.show(rows)
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
