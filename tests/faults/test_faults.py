"""A short cut of the suite: the most telling rows, with a small load. `make faults` runs all of it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from tests.faults import rows
from tests.faults.checker import Verdict
from tests.faults.registry import AGAIN_WITHIN, FAULTS, WAITING
from tests.faults.run import run

assert rows

N, RATE = 150, 75.0

TELLING = [
    "all of it: SIGKILL",
    "one of two bridges: SIGKILL, with a backlog and the other one's places taken",
    "email closes the connection in mid-reply",
    "every event delivered 1 to 5 times, in random order, concurrently",
]


ENDS = {"down", "cut_power", "kill"}
"""Methods that end a process."""


def names_in(act: Callable[..., Any]) -> set[str]:
    """The names that a row's function uses, and the functions of the rows that it calls."""
    functions = [act.func if isinstance(act, partial) else act]
    found: set[str] = set()
    for function in functions:
        codes = [function.__code__]
        for code in codes:
            codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
            for name in {*code.co_names} - found:
                found.add(name)
                called = function.__globals__.get(name)
                if isinstance(called, FunctionType) and called.__module__.startswith(rows.__name__):
                    functions.append(called)
    return found


def test_each_row_that_ends_a_process_has_a_twin_with_events_waiting() -> None:
    """But those that name a reason."""
    ending = {name: row for name, row in FAULTS.items() if ENDS & names_in(row.act) and not row.waiting}
    assert len(ending) > 50
    alone = [name for name in ending if f"{name}, {WAITING:,} events waiting" not in FAULTS]
    assert alone == [name for name, row in FAULTS.items() if row.no_twin]


def test_a_late_redelivery_breaks_the_promise_where_another_bridge_is_left() -> None:
    row = FAULTS["one of two bridges: SIGKILL"]
    assert not row.judge(Verdict(), AGAIN_WITHIN)
    assert row.judge(Verdict(), AGAIN_WITHIN + 0.1)
    assert not FAULTS["bridge: SIGKILL"].judge(Verdict(), 60)


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
