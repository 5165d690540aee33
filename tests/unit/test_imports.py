"""Imports point one way: a package imports only those above it in the list, and no two modules each other.

Each module says in its first line what it does. No two classes share a name.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.servers import ROOT

ORDER = [
    "errors",
    "graph",
    "coalescer",
    "settings",
    "stage_values",
    "events",
    "observe",
    "server",
    "function",
    "journal",
    "check",
    "bridge",
    "cli",
    "testing",
]
ROOT_MODULES = {"__init__", "coalescer", "errors", "graph", "settings", "stage_values"}
"""Modules at the root of milepost/: those that several packages need and that belong to none."""


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of the project that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "milepost" else [f"milepost.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in {"milepost", "gateway", "functions", "tests"})


def files_of(package: str) -> list[Path]:
    path = ROOT / "milepost" / package
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


@pytest.mark.parametrize("package", ORDER)
def test_package_imports_only_packages_above_it(package: str) -> None:
    allowed = {*ORDER[: ORDER.index(package) + 1]} | ({"__version__"} if package == "cli" else set())
    if package == "testing":
        allowed.add("Payload")  # which a pipeline's tests import from `milepost` itself
    for file in files_of(package):
        found = {name.split(".")[1] for name in imported(file) if name.startswith("milepost.")}
        assert found <= allowed, file


def test_every_package_has_a_place_in_the_order() -> None:
    folders = {path.name for path in (ROOT / "milepost").iterdir() if (path / "__init__.py").exists()}
    assert folders <= {*ORDER}
    assert {path.stem for path in (ROOT / "milepost").glob("*.py")} == ROOT_MODULES


def test_milepost_imports_neither_gateway_nor_functions_nor_tests() -> None:
    for file in sorted((ROOT / "milepost").rglob("*.py")):
        assert not [name for name in imported(file) if not name.startswith("milepost")], file


def modules() -> dict[str, ast.Module]:
    """Return name → source of each module of the library and the gateway."""
    files = [path for folder in ("milepost", "gateway") for path in sorted((ROOT / folder).rglob("*.py"))]
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in files}
    return {".".join(parts[path]).removesuffix(".__init__"): ast.parse(path.read_text()) for path in files}


def test_no_modules_import_each_other() -> None:
    known = modules()
    imports: dict[str, set[str]] = {}
    for name, source in known.items():
        found = [node for node in source.body if isinstance(node, ast.ImportFrom) and node.module]
        named = {(node.module or "", f"{node.module}.{alias.name}") for node in found for alias in node.names}
        imports[name] = {member if member in known else module for module, member in named} & known.keys()
    assert len(imports["milepost.bridge.bridge"]) > 10
    assert set(TopologicalSorter(imports).static_order()) >= {*imports}  # raises CycleError with the circle


def test_each_module_says_what_it_does() -> None:
    assert [name for name, source in modules().items() if not ast.get_docstring(source)] == []


def test_no_class_name_is_used_twice() -> None:
    bodies = [source.body for source in modules().values()]
    names = Counter(node.name for body in bodies for node in body if isinstance(node, ast.ClassDef))
    assert [name for name, uses in names.items() if uses > 1] == []
