"""`make mutants`: change each call, condition and constant of the scripts in turn, and see which test fails.

The tests of tests/journal and the small searches of tests/model first run on scripts that tell which lines they run.
Then each mutant is given to those that run its line: first quick ones and those that killed another near it. The exit
status is 1 if a mutant survives that tests/mutants/reasons.py gives no reason for.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from milepost.journal.scripts import OWN, SCRIPTS, SHARED, whole_text
from tests.mutants.killers import BROKEN, Job, Test, collected, first_failures, record, use
from tests.mutants.lua import Mutant, marked_line_of, mutants
from tests.mutants.reasons import reason

FOLDER = Path(__file__).resolve().parents[2] / "milepost" / "journal" / "lua"
SEARCH = "test_no_state_breaks_an_invariant"
TESTS = ["tests/journal", f"tests/model/test_model.py::{SEARCH}", "-k", "not ([redis or -redis])"]
SHARE = 0.25
"""Of the time of all tests: what those take that are given one mutant, at most. The searches come on top, unless it
has a reason to survive.
"""

NEAR = 10
"""A test that killed a mutant within so many lines comes first."""


def sources() -> dict[str, str]:
    """Return the Lua source of each file, by its name without the ending."""
    return {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.lua"))}


def scripts_with(name: str, source: str, mutant: Mutant) -> dict[str, str]:
    """Return the whole text of each script that a mutant of this file changes."""
    if name != "common":
        return {name: whole_text(OWN[name].replace(source, mutant.source))}
    shared = SHARED.replace(source, mutant.source)
    texts = {script: whole_text(own, shared) for script, own in OWN.items()}
    return {script: text for script, text in texts.items() if text != SCRIPTS[script]}


def chosen(tests: Sequence[Test], line: str, kills: Mapping[str, float], *, searches: bool) -> list[Test]:
    """Return the tests that run a line: first those that killed most in the shortest time."""
    found, seconds, most = [], 0.0, SHARE * sum(test.seconds for test in tests)
    for test in sorted(tests, key=lambda test: (test.seconds + 0.02) / (kills.get(test.name, 0.0) + 0.1)):
        is_search = SEARCH in test.name
        if line in test.lines and (searches if is_search else seconds + test.seconds <= most):
            found.append(test)
            seconds += 0 if is_search else test.seconds
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--only", default="", help="mutate scripts whose name contains this")
    parser.add_argument("--line", type=int, help="mutate this line")
    parser.add_argument("--list", action="store_true", help="list the mutants")
    parser.add_argument("--reasons", action="store_true", help="list those that may survive, each with its reason")
    parser.add_argument("--json", type=Path, help="write every mutant, and what killed it, to this file")
    parser.add_argument("--known", type=Path, help="take over the results of the same mutants from this earlier file")
    parser.add_argument(
        "--lines", type=Path, help="keep in this file which test runs which line, and read it from there"
    )
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no mutant after this time")
    given = parser.parse_args()

    lua = sources()
    found = [
        (name, mutant)
        for name in sorted(lua, key=lambda name: (name != "common", name))
        if given.only in name
        for mutant in mutants(lua[name])
        if given.line in {None, mutant.line}
    ]
    if given.list or given.reasons:
        for name, mutant in found:
            why = reason(name, mutant.change)
            if why or given.list:
                print(f"{name}.lua:{mutant.line}: {mutant.change}" + (f"\n    {why}" if why else ""))
        return 0

    known: dict[tuple[str, str], str | None] = {}
    for row in json.loads(given.known.read_text()) if given.known else ():
        known[row["file"], row["change"]] = row["killer"]
    tests = tests_with_lines(lua, given.lines)
    print(f"{len(found)} mutants; {len(tests)} tests take {sum(test.seconds for test in tests):.0f} s", flush=True)

    ended = []

    def work(items: list[pytest.Item]) -> None:
        by_name = {item.nodeid: item for item in items}
        known_tests = [test for test in tests if test.name in by_name]
        ended.append(try_all(found, known_tests, by_name, known, given))

    collected(TESTS, work)
    return 0 if ended == [True] else 1


def tests_with_lines(lua: dict[str, str], file: Path | None) -> list[Test]:
    """Return the tests and the lines that each runs: from this file if it is there, else by running them."""
    if file and file.exists():
        return [Test(name, seconds, set(lines)) for name, seconds, lines in json.loads(file.read_text())]
    tests, failed = record(TESTS, lua)
    if failed:
        print("left out, as they fail without a mutant:", *failed, sep="\n    ")
    if file:
        file.write_text(json.dumps([(test.name, test.seconds, sorted(test.lines)) for test in tests]))
    return tests


def tell(name: str, mutant: Mutant, killer: str | None, by: str) -> None:
    """Print a mutant that survives, and one that is killed although it has a reason to survive."""
    why = reason(name, mutant.change)
    if why or not killer:
        what = "killed" if killer else f"survives ({by})"
        print(f"{what}: {name}.lua:{mutant.line}: {mutant.change}\n    {why or 'OPEN'}", flush=True)


def try_all(
    found: list[tuple[str, Mutant]],
    tests: list[Test],
    items: dict[str, pytest.Item],
    known: dict[tuple[str, str], str | None],
    given: argparse.Namespace,
) -> bool:
    """Give each mutant to its tests, and print the survivors. Returns whether each of them has a reason."""
    began, lua = time.monotonic(), sources()
    rows: list[dict[str, object]] = []
    killed: list[tuple[str, int, str]] = []  # file, line, test

    def jobs() -> Iterator[Job]:
        for name, mutant in found:
            if time.monotonic() - began > given.seconds:
                return
            if (f"{name}.lua", mutant.change) in known:
                report(name, mutant, known[f"{name}.lua", mutant.change], "as known")
                continue
            kills: dict[str, float] = {}
            for file, line, test in killed:
                if file == name:
                    kills[test] = kills.get(test, 0.0) + (1.0 if abs(line - mutant.line) <= NEAR else 0.1)
            line = f"{name}:{marked_line_of(lua[name], mutant.line)}"
            to_run = chosen(tests, line, kills, searches=reason(name, mutant.change) is None)
            yield Job(
                (name, mutant, f"{len(to_run)} tests" if to_run else "no test runs it"),
                [items[test.name] for test in to_run],
                [test.seconds for test in to_run],
                partial(use, scripts_with(name, lua[name], mutant)),
            )

    def report(name: str, mutant: Mutant, killer: str | None, by: str) -> None:
        tell(name, mutant, killer, by)
        if killer:
            killed.append((name, mutant.line, killer.removesuffix(" does not end")))
        rows.append({"file": f"{name}.lua", "line": mutant.line, "change": mutant.change, "killer": killer})
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1))

    for job, killer in first_failures(jobs(), at_once=os.cpu_count() or 1):
        if killer and killer.startswith(BROKEN):
            raise SystemExit(killer)
        name, mutant, by = job.mutant
        report(name, mutant, killer, by)
    survivors = [reason(str(row["file"]).removesuffix(".lua"), str(row["change"])) for row in rows if not row["killer"]]
    print(
        f"{len(rows)} of {len(found)} mutants tried: {len(rows) - len(survivors)} killed, {len(survivors)} survive, "
        f"{survivors.count(None)} of them without a reason; {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return None not in survivors


if __name__ == "__main__":
    sys.exit(main())
