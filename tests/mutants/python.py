"""`python -m tests.mutants.python`: change conditions, constants and statements of journal/ and bridge/, some of them.

The tests of tests/unit, tests/journal and tests/bridge run once with coverage, which tells the lines that each test
runs. Then the loaded functions get the code of each mutant, in a child of this process, and the tests that run its line
are run: first quick ones and those that killed another near it. docs/faults.md has the score.
"""

import argparse
import ast
import importlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from html import unescape
from itertools import pairwise
from pathlib import Path
from types import FunctionType, ModuleType

import coverage
import pytest

from tests.mutants.killers import BROKEN, OPTIONS, Job, collected, first_failures
from tests.mutants.lua import LARGE, Mutant
from tests.servers import ROOT

PACKAGES = ("milepost/journal", "milepost/bridge")
TESTS = ["tests/unit", "tests/journal", "tests/bridge", "-k", "not ([redis or -redis])"]
NEAR = 10
"""A test that killed a mutant within so many lines comes first."""

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
    """Whether it is part of a type, or of a class's decorator."""
    while parent := getattr(node, "parent", None):
        if isinstance(parent, ast.ClassDef) and node in parent.decorator_list:
            return True
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
    """Yield the operators at one node, each with its operands."""
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
        fields = {name: unescape(value) for name, value in re.findall(r'(\w+)="([^"]*)"', case)}
        if "<failure" not in case:
            seconds[f"{fields['file']}::{fields['name']}"] = float(fields["time"])
    return lines, seconds


def chosen(tests: Sequence[str], seconds: Mapping[str, float], kills: Mapping[str, float], most: float) -> list[str]:
    """Return tests for one mutant, of `most` seconds together: first those that killed most in the shortest time."""
    known = [test for test in tests if test in seconds]
    found, total = [], 0.0
    for test in sorted(known, key=lambda test: (seconds[test] + 0.02) / (kills.get(test, 0.0) + 0.1)):
        if total + seconds[test] <= most:
            found.append(test)
            total += seconds[test]
    return found


def put_in_place(name: str, source: str) -> None:
    """Give the functions of a loaded module the code and defaults of a changed source, and the module its constants.

    Raises ValueError if none of them shows the change, as for a field of a dataclass.
    """
    module = sys.modules[name]
    assert module.__file__
    whole = compile(source, module.__file__, "exec", dont_inherit=True)
    fresh = ModuleType(name)
    fresh.__dict__.update(__file__=module.__file__, __package__=module.__package__)
    exec(whole, fresh.__dict__)  # noqa: S102 - it is ours
    done = 0
    changed = {(function.__qualname__, function.__code__.co_firstlineno): function for function in _functions(fresh)}
    for function in _functions(module):
        other = changed.get((function.__qualname__, function.__code__.co_firstlineno), function)
        for part in ("__code__", "__defaults__", "__kwdefaults__"):
            if getattr(function, part) != getattr(other, part):
                setattr(function, part, getattr(other, part))
                done += 1
    for constant, value in vars(fresh).items():
        before = vars(module).get(constant)
        if isinstance(value, int | float | timedelta | tuple | frozenset) and value != before:
            done += 1
            for holder in [*sys.modules.values()]:
                if constant in vars(holder) and vars(holder)[constant] is before:
                    setattr(holder, constant, value)
    if not done:
        raise ValueError("the change cannot be put in place")


def _functions(holder: ModuleType | type) -> Iterator[FunctionType]:
    """Yield the functions and methods of a module or class that are defined there."""
    name = holder.__name__ if isinstance(holder, ModuleType) else holder.__module__
    for value in [*vars(holder).values()]:
        match value:
            case staticmethod() | classmethod():
                found = [value.__func__]
            case property():
                found = [value.fget, value.fset]
            case _:
                found = [value, getattr(value, "__wrapped__", None)]
        for one in found:
            if isinstance(one, FunctionType) and one.__module__ == name:
                yield one
            elif isinstance(one, type) and one.__module__ == name:
                yield from _functions(one)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=300, help="try so many mutants, chosen at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="give each mutant tests of so many seconds at most")
    parser.add_argument("--at-once", type=int, default=1, help="try so many mutants side by side")
    parser.add_argument("--only", default="", help="mutate files whose path matches this pattern")
    parser.add_argument("--list", action="store_true", help="list the mutants")
    parser.add_argument("--json", type=Path, help="write every mutant, and what killed it, to this file")
    parser.add_argument("--known", type=Path, help="take over from this earlier file which mutants were killed")
    parser.add_argument("--lines", type=Path, help="keep which test runs which line in this file")
    given = parser.parse_args()
    found = [
        (str(path.relative_to(ROOT)), mutant)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if re.search(given.only, str(path))
        for mutant in mutants(path.read_text())
    ]
    print(f"{len(found)} mutants", flush=True)
    picked = sorted(random.Random(given.seed).sample(range(len(found)), min(given.n, len(found))))
    if given.list:
        for number in picked:
            name, mutant = found[number]
            print(f"{name}:{mutant.line}: {mutant.change}")
        return 0
    if given.lines and given.lines.exists():
        rows, seconds = json.loads(given.lines.read_text())
        lines = {(name, line): tests for name, line, tests in rows}
    else:
        with tempfile.TemporaryDirectory() as folder:
            lines, seconds = contexts(Path(folder))
        if given.lines:
            given.lines.write_text(json.dumps([[(*at, tests) for at, tests in lines.items()], seconds]))

    def work(items: list[pytest.Item]) -> None:
        by_name = {item.nodeid: item for item in items}
        usual = {name: taken for name, taken in seconds.items() if name in by_name}
        try_all([found[number] for number in picked], lines, usual, by_name, given)

    for name in {name for name, _ in found}:
        importlib.import_module(_module(name))
    collected(TESTS, work)
    return 0


def _module(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def try_all(
    picked: Sequence[tuple[str, Mutant]],
    lines: Mapping[tuple[str, int], list[str]],
    seconds: Mapping[str, float],
    items: Mapping[str, pytest.Item],
    given: argparse.Namespace,
) -> None:
    """Give each mutant to its tests, and tell the survivors."""
    began = time.monotonic()
    rows: list[dict[str, object]] = []
    killed: list[tuple[str, int, str]] = []  # file, line, test
    of_file: dict[str, set[str]] = {}
    for (file, _), names in lines.items():
        of_file.setdefault(file, set()).update(names)
    rows_before = json.loads(given.known.read_text()) if given.known else ()
    known = {(row["file"], row["change"]) for row in rows_before if row["killer"]}

    def jobs() -> Iterator[Job]:
        for name, mutant in picked:
            if (name, mutant.change) in known:
                continue
            # A line that runs when its module is imported belongs to every test of the module.
            tests = lines.get((name, mutant.line)) or sorted(of_file.get(name, ()))
            kills: dict[str, float] = {}
            for file, line, test in killed:
                if file == name:
                    kills[test] = kills.get(test, 0.0) + (1.0 if abs(line - mutant.line) <= NEAR else 0.1)
            names = chosen(tests, seconds, kills, given.seconds)
            taken = [seconds[test] for test in names]
            put = partial(put_in_place, _module(name), mutant.source)
            yield Job((name, mutant), [items[test] for test in names], taken, put)

    for job, killer in first_failures(jobs(), at_once=given.at_once):
        name, mutant = job.mutant
        if killer and killer.startswith(BROKEN):
            print(f"not tried: {name}:{mutant.line}: {mutant.change}", flush=True)
            continue
        if killer:
            killed.append((name, mutant.line, killer.removesuffix(" does not end")))
        else:
            by = f"{len(job.items)} tests" if job.items else "no test runs it"
            print(f"survives ({by}): {name}:{mutant.line}: {mutant.change}", flush=True)
        rows.append({"file": name, "line": mutant.line, "change": mutant.change, "killer": killer})
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1))
    print(f"{len(killed)} of {len(rows)} mutants killed, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
