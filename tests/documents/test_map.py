"""The table "Where is …" of CONTRIBUTING: the files are there and define what it names."""

import ast
import re

import pytest

from tests.servers import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SECTION = TEXT.partition("## Where is …\n")[2].partition("\n## ")[0]
ROWS = [
    [re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|")]
    for line in SECTION.splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| you look"))
]


def defined(path: str) -> set[str]:
    """Every function, class, constant and method that a module defines; methods as `Class.method`."""
    names = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.ClassDef():
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
                names |= {node.name, *(f"{node.name}.{method.name}" for method in methods)}
            case ast.Assign():
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


def test_table_has_rows_of_three_cells() -> None:
    assert len(ROWS) > 20
    assert {len(row) for row in ROWS} == {3}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ",".join(row[1]))
def test_named_files_define_the_named_things(row: list[list[str]]) -> None:
    _, files, names = row
    assert files
    for file in files:
        assert (ROOT / file).exists(), file
    modules = [file for file in files if file.endswith(".py")]
    found = [defined(file) for file in modules]
    assert set(names) <= set().union(*found)
    for module, there in zip(modules, found, strict=True):
        assert there & set(names), f"{module}: the table names nothing of it"


def test_questions_of_newcomers_are_answered() -> None:
    asked = ["the retry rule", "the adaptive concurrency limit", "the leader change", "the order of a stop", "SMTP"]
    assert [question for question in asked if question not in SECTION] == []
