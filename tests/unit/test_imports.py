"""Imports point one way: a package knows only those below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ROOT

MAY_IMPORT = {
    "milepost/errors.py": set[str](),
    "milepost/graph.py": set[str](),
    "milepost/events": {"milepost.errors", "milepost.events", "milepost.graph"},
    "milepost/function": {
        "milepost.errors",
        "milepost.events",
        "milepost.function",
        "milepost.server",
        "milepost.observe",
    },
    "milepost/stages_table.py": {"milepost.errors", "milepost.graph"},
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "milepost" else [f"milepost.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in {"milepost", "gateway", "functions", "tests"})


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_packages_below_it(package: str) -> None:
    path = ROOT / package
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert files
    for file in files:
        found = {".".join(name.split(".")[:2]) for name in imported(file)}
        assert found <= MAY_IMPORT[package], file


def test_no_package_of_ours_imports_the_gateway_the_functions_or_the_tests() -> None:
    for file in sorted((ROOT / "milepost").rglob("*.py")):
        assert not [name for name in imported(file) if not name.startswith("milepost.")], file
