"""`python -m tests.mutants.python`: change conditions, constants and statements of journal/ and bridge/, some of them.

The tests of tests/unit, tests/journal and tests/bridge run once with coverage, which tells the lines that each test
runs. Then each mutant is written into a copy of the project and given to the tests that run its line, the quick ones
first. docs/faults.md has the score.
"""

import argparse
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import coverage
import pytest

from tests.mutants.killers import BROKEN, OPTIONS, in_child
from tests.mutants.lua import LARGE, Mutant
from tests.servers import ROOT

PACKAGES = ("milepost/journal", "milepost/bridge")
TESTS = ["tests/unit", "tests/journal", "tests/bridge", "-k", "not ([redis or -redis])"]
SECONDS = 10.0
"""Of tests that are given one mutant, at most."""

_OTHER: Mapping[type[ast.AST], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.And: "or",
    ast.Or: "and",
}
_SIGN = re.compile(r"\b(?:not in|is not|in|is|and|or)\b|<=|>=|==|!=|[-+*/<>]")


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a Python source. No two have the same `change`."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    raw, seen = source.encode(), Counter[str]()

    def place(line: int, column: int) -> int:
        return starts[line - 1] + column

    tree = ast.parse(source)
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if isinstance(node, ast.expr | ast.stmt) and not _is_annotation(node):
            for begin, end, text in _changes(node, raw, place):
                line = source.splitlines()[raw.count(b"\n", 0, begin)].strip()
                old = re.sub(r"\s+", " ", raw[begin:end].decode())
                change = f"{old[:60]} → {text[:70]} in {line[:80]}"
                seen[change] += 1
                number = f" ({seen[change]})" if seen[change] > 1 else ""
                changed = (raw[:begin] + text.encode() + raw[end:]).decode()
                yield Mutant(raw.count(b"\n", 0, begin) + 1, change + number, changed)


def _is_annotation(node: ast.AST) -> bool:
    """Whether it is part of a type, or a name that a module exports."""
    while parent := getattr(node, "parent", None):
        if isinstance(parent, ast.AnnAssign) and node is parent.annotation:
            return True
        if isinstance(parent, ast.arg) or (isinstance(parent, ast.FunctionDef) and node is parent.returns):
            return True
        node = parent
    return False


def _changes(node: ast.AST, raw: bytes, place: Callable[[int, int], int]) -> Iterator[tuple[int, int, str]]:
    """Yield the changes at one node: begin and end of the replaced bytes, and what replaces them."""

    def span(of: ast.expr | ast.stmt) -> tuple[int, int]:
        return place(of.lineno, of.col_offset), place(int(of.end_lineno or 0), int(of.end_col_offset or 0))

    def text(of: ast.expr) -> str:
        return raw[slice(*span(of))].decode()

    for left, kind, right in _pairs(node):
        begin, end = span(left)[1], span(right)[0]
        if (found := _SIGN.search(raw[begin:end].decode())) and type(kind) in _OTHER:
            yield begin + found.start(), begin + found.end(), _OTHER[type(kind)]
    match node:
        case ast.UnaryOp(ast.Not(), operand):
            yield *span(node), text(operand)
        case ast.Constant(bool() as value):
            yield *span(node), str(not value)
        case ast.Constant(int() | float() as value):
            yield *span(node), str(value * 2 if value >= LARGE else value + 1)
        case ast.If(test) | ast.While(test) | ast.IfExp(test) if not isinstance(test, ast.Compare | ast.UnaryOp):
            yield *span(test), f"not ({text(test)})"
        case ast.Expr(ast.Call() | ast.Await()) | ast.AugAssign() | ast.Raise():
            yield *span(node), "pass"
        case ast.Assign([ast.Attribute() | ast.Subscript(), *_]):
            yield *span(node), "pass"


def _pairs(node: ast.AST) -> Iterator[tuple[ast.expr, ast.AST, ast.expr]]:
    """Yield the operators at one node, each with what it stands between."""
    match node:
        case ast.Compare(left, kinds, others):
            yield from zip([left, *others], kinds, others, strict=False)
        case ast.BoolOp(kind, values):
            yield from ((left, kind, right) for left, right in pairwise(values))
        case ast.BinOp(left, kind, right) if not isinstance(left, ast.Constant) or not isinstance(left.value, str):
            yield left, kind, right


def contexts(folder: Path) -> tuple[dict[tuple[str, int], list[str]], dict[str, float]]:
    """Run the tests with coverage. Returns the tests that run each line, and the seconds of each test."""
    report, data = folder / "report.xml", folder / "coverage"
    command = [sys.executable, "-m", "pytest", *OPTIONS, *TESTS, "--cov", "--cov-context=test", "--cov-report="]
    env = {**os.environ, "COVERAGE_FILE": str(data)}
    subprocess.run([*command, f"--junitxml={report}", "-o", "junit_family=xunit1"], cwd=ROOT, env=env, check=False)
    found = coverage.CoverageData(str(data))
    found.read()
    lines: dict[tuple[str, int], list[str]] = {}
    for file in found.measured_files():
        name = str(Path(file).relative_to(ROOT)) if file.startswith(str(ROOT)) else file
        for line, names in found.contexts_by_lineno(file).items():
            lines[name, line] = sorted({one.rpartition("|")[0] for one in names if one})
    text = report.read_text()
    seconds: dict[str, float] = {}
    for case in re.findall(r"<testcase [^>]*>(?:<failure)?", text):
        fields = dict(re.findall(r'(\w+)="([^"]*)"', case))
        if "<failure" not in case:
            seconds[f"{fields['file']}::{fields['name']}"] = float(fields["time"])
    return lines, seconds


def chosen(tests: list[str], seconds: Mapping[str, float], kills: Mapping[str, int]) -> list[str]:
    """Return the tests for one mutant: first those that killed most in the shortest time."""
    known = [test for test in tests if test in seconds]
    found, total = [], 0.0
    for test in sorted(known, key=lambda test: (seconds[test] + 0.05) / (kills.get(test, 0) + 0.2)):
        if total + seconds[test] <= SECONDS:
            found.append(test)
            total += seconds[test]
    return found


class _Chosen:
    """A pytest plugin: runs these tests alone, in this order, and reports the first that fails."""

    def __init__(self, tests: list[str], write: Callable[[str], None]) -> None:
        self._order = {name: number for number, name in enumerate(tests)}
        self._write = write

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._order), key=lambda item: self._order[item.nodeid]
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._write(report.nodeid)


def killer_of(tests: list[str], copy: Path, *, within: float) -> str | None:
    """Return the first of these tests that fails in a copy of the project; None if all pass."""

    def run(write: Callable[[str], None]) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in {"tests", "milepost", "functions"}]:
            del sys.modules[name]
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        os.environ["PYTHONPATH"] = str(copy)
        files = sorted({name.partition("::")[0] for name in tests})
        ended = pytest.main([*OPTIONS, "-x", f"--rootdir={copy}", *files], plugins=[_Chosen(tests, write)])
        if ended == pytest.ExitCode.NO_TESTS_COLLECTED:
            write(f"{BROKEN}: no test was found")
        elif ended not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            write("the import")

    return in_child(run, within=within) if tests else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=300, help="try so many mutants, chosen at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="mutate files whose path contains this")
    parser.add_argument("--list", action="store_true", help="list the mutants")
    parser.add_argument("--json", type=Path, help="write every mutant, and what killed it, to this file")
    parser.add_argument("--lines", type=Path, help="keep which test runs which line in this file")
    given = parser.parse_args()
    found = [
        (str(path.relative_to(ROOT)), mutant)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if given.only in str(path)
        for mutant in mutants(path.read_text())
    ]
    print(f"{len(found)} mutants", flush=True)
    picked = random.Random(given.seed).sample(found, min(given.n, len(found)))
    if given.list:
        for name, mutant in found:
            print(f"{name}:{mutant.line}: {mutant.change}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if given.lines and given.lines.exists():
            rows, seconds = json.loads(given.lines.read_text())
            lines = {(name, line): tests for name, line, tests in rows}
        else:
            lines, seconds = contexts(Path(folder))
            if given.lines:
                given.lines.write_text(json.dumps([[(*at, tests) for at, tests in lines.items()], seconds]))
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "benchmarks", "results"))
        return try_all(picked, lines, seconds, copy, given.json)


def try_all(
    picked: list[tuple[str, Mutant]],
    lines: Mapping[tuple[str, int], list[str]],
    seconds: Mapping[str, float],
    copy: Path,
    report: Path | None,
) -> int:
    """Give each mutant to its tests, and tell the survivors."""
    began, kills, rows = time.monotonic(), Counter[str](), []
    of_file: dict[str, set[str]] = {}
    for (file, _), names in lines.items():
        of_file.setdefault(file, set()).update(names)
    for number, (name, mutant) in enumerate(picked, 1):
        original = (copy / name).read_text()
        # A line that runs when its module is imported belongs to every test of the module.
        tests = lines.get((name, mutant.line)) or sorted(of_file.get(name, ()))
        names = chosen(tests, seconds, kills)
        try:
            (copy / name).write_text(mutant.source)
            killer = killer_of(names, copy, within=60 + 10 * sum(seconds[test] for test in names))
        finally:
            (copy / name).write_text(original)
        if killer and killer.startswith(BROKEN):
            raise SystemExit(killer)
        if killer:
            kills[killer] += 1
        else:
            by = f"{len(names)} tests" if names else "no test runs it"
            print(f"{number}/{len(picked)} survives ({by}): {name}:{mutant.line}: {mutant.change}", flush=True)
        rows.append({"file": name, "line": mutant.line, "change": mutant.change, "killer": killer})
        if report:
            report.write_text(json.dumps(rows, indent=1))
    killed = sum(row["killer"] is not None for row in rows)
    print(f"{killed} of {len(rows)} mutants killed, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
