"""The glossary: one line a word, in order, few enough to be learnt."""

import re

from tests.servers import ROOT

ROW = re.compile(r"\| \*\*([a-z -]+)\*\* \| (.+) \|")
ROWS = [ROW.fullmatch(line) for line in (ROOT / "docs" / "glossary.md").read_text().splitlines() if "**" in line]


def test_each_word_has_one_line_in_alphabetical_order() -> None:
    assert all(ROWS)
    words = [row[1] for row in ROWS if row]
    assert words == sorted(set(words))
    assert 15 <= len(words) <= 30
    assert all(len(row[2]) <= 120 for row in ROWS if row)
