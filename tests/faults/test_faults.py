"""A short cut of the suite: the most telling rows, with a small load. `make faults` runs all of it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import rows
from tests.faults.registry import FAULTS
from tests.faults.run import run

assert rows

N, RATE = 150, 75.0

TELLING = [
    "all of it: SIGKILL",
    "one of two bridges: SIGKILL, with a backlog and the other one's places taken",
    "email closes the connection in mid-reply",
    "every event delivered 1 to 5 times, in random order, concurrently",
]


def test_each_row_that_ends_a_process_has_a_twin_with_events_waiting() -> None:
    """But one whose own events wait, and the row with poison, which restarts the bridge after its load."""
    ends = re.compile(r"SIG|killed|\bended|restarted|power cut|gone|dies")
    rows = [name for name in FAULTS if ends.search(name) and not re.search("wait|poison", name)]
    assert len(rows) > 50
    assert [name for name in rows if f"{name}, 20,000 events waiting" not in FAULTS] == []


async def test_each_address_keeps_its_order_though_everything_is_killed(tmp_path: Path) -> None:
    row = FAULTS["all of it: SIGKILL"]
    ordered = replace(row, options=replace(row.options, order="email"))
    result = await run(ordered, tmp_path, n=N, rate=RATE, tell=lambda *_: None)
    assert not result.wrong, result


@pytest.mark.parametrize("name", TELLING)
async def test_nothing_is_lost_and_nothing_happens_twice(name: str, tmp_path: Path) -> None:
    """Held to the same as the row of the table."""
    result = await run(FAULTS[name], tmp_path, n=N, rate=RATE, tell=lambda *_: None)
    assert not result.wrong, result
