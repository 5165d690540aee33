"""Every threat in SECURITY.md, and every promise in README.md, names the tests that show it, and they are there."""

import re

import pytest

from tests.servers import ROOT

NAMED = re.compile(r"`((?:tests|milepost/testing)/[\w/]+\.py)::(test_\w+)`")
TABLES = {"SECURITY.md": "| threat | what stops it | shown by |", "README.md": "| promise | shown by |"}

ROWS = [
    (document, row)
    for document, head in TABLES.items()
    for row in (ROOT / document).read_text().partition(f"{head}\n")[2].partition("\n\n")[0].splitlines()[1:]
]


@pytest.mark.parametrize(("document", "row"), ROWS, ids=[row[2:40] for _, row in ROWS])
def test_each_row_names_tests_that_exist(document: str, row: str) -> None:
    shown_by = row.rstrip(" |").rpartition(" | ")[2]
    named = NAMED.findall(shown_by)
    assert named, f"{document}: no test is named for {row[:60]}"
    for path, name in named:
        assert re.search(rf"^\s*(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_there_are_rows_of_both_tables() -> None:
    assert {document for document, _ in ROWS} == set(TABLES)
