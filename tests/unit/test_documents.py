"""What the documents point at is there."""

import re
from pathlib import Path

import pytest

from tests.servers import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
TEST = re.compile(r"`((?:tests|milepost)/[\w/.]+\.py)(?:::(\w+))?`")
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_and_file_that_is_named_exists(document: Path) -> None:
    text = document.read_text()
    for path, name in TEST.findall(text):
        assert (ROOT / path).is_file(), path
        assert not name or re.search(rf"def {name}\b", (ROOT / path).read_text()), f"{path}::{name}"
    for target in LINK.findall(text):
        assert (document.parent / target).exists(), target


def test_there_is_something_to_check() -> None:
    assert TEST.search((ROOT / "SECURITY.md").read_text())
    assert LINK.search((ROOT / "README.md").read_text())
