"""`python -m tests.faults`: run every fault, and print one table. Exit status 1 if a row does not hold.

--list            the names of the rows
--only NAME       rows whose name contains NAME; may be given more than once
--all             also the rows that run on request: most with events waiting, and many on Debian's Redis
--part K/N        the Kth of N parts of the rows, so that a run can be split
--seed NUMBER     of the random choices of the rows; printed, and another one each time
--n, --rate       submissions a row, and a second
--json FILE       the rows as JSON; written after each row
--markdown FILE   the table as docs/faults.md has it; written at the end
--order FIELD     order the stages by this field, `email`, and let submissions share a few addresses
--redis KIND      valkey or redis-server, for rows that have none of their own
--keep DIR        keep data and logs of every process there
"""

import argparse
import asyncio
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tests.faults import report, rows
from tests.faults.registry import EVERY_REDIS, FAULTS, Fault
from tests.faults.report import Result
from tests.faults.run import run


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--order", default="", choices=["", "email"])
    parser.add_argument("--redis", choices=EVERY_REDIS, default="valkey")
    parser.add_argument("--keep", type=Path)
    return parser.parse_args()


def chosen(only: list[str], *, everything: bool, part: str) -> list[Fault]:
    """The rows to run. A row that runs on request needs its whole name, or --all."""
    exact = [FAULTS[name] for name in only if name in FAULTS]
    if only and len(exact) == len(only):
        return exact
    asked = [fault for fault in FAULTS.values() if everything or not fault.only_on_request]
    found = [fault for fault in asked if not only or any(words in fault.name for words in only)]
    place, parts = map(int, part.split("/"))
    return found[len(found) * (place - 1) // parts : len(found) * place // parts]


def one(fault: Fault, given: argparse.Namespace, progress: Progress) -> Result:
    if fault.cannot_run:
        return Result(fault.name, None, skipped=fault.cannot_run)
    random.seed(f"{given.seed} {fault.name}")
    task = progress.add_task(fault.name, total=None, detail="starting")

    def tell(doing: str, done: int, total: int) -> None:
        progress.update(task, detail=f"{doing}, {done} e-mails of {total}")

    folder = given.keep / re.sub(r"\W+", "-", fault.name) if given.keep else Path(tempfile.mkdtemp())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        return asyncio.run(run(fault, folder, n=given.n, rate=given.rate, tell=tell))
    except Exception as failure:  # noqa: BLE001 - one row that breaks must not cost the others
        progress.console.print(traceback.format_exc())
        return Result(fault.name, None, [f"broke off: {failure!r:.300}"])
    finally:
        progress.remove_task(task)
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    given = options()
    console = Console(width=None if sys.stdout.isatty() else 200)
    faults = [fault.on(EVERY_REDIS[given.redis]) for fault in chosen(given.only, everything=given.all, part=given.part)]
    if given.order:
        faults = [replace(fault, options=replace(fault.options, order=given.order)) for fault in faults]
    if given.list:
        for fault in faults:
            print(fault.name)
        return 0
    if not faults:
        console.print(f"no row is named like {given.only}; --list shows them")
        return 2
    console.print(f"{len(faults)} rows, --seed {given.seed}")
    results: list[Result] = []
    columns = SpinnerColumn(), TextColumn("{task.description}: {task.fields[detail]}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        for fault in faults:
            begun = time.monotonic()
            results.append(one(fault, given, progress))
            progress.console.print(f"row {len(results)} of {len(faults)}, {time.monotonic() - begun:.0f} s")
            report.show(progress.console, results[-1:])
            if given.json:
                report.write(given.json, results)
    if given.markdown:
        report.write_markdown(given.markdown, results)
    console.print()
    report.show(console, results)
    failed = [result.name for result in results if result.wrong]
    console.print(f"{len(results)} rows, {len(failed)} failed" + (f": {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    assert rows
    sys.exit(main())
