"""Lines, tables and questions for a terminal."""

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from milepost.events.strict_json import dumps

WIDEST = 10_000
"""Longest line of a table, in characters."""


def say(text: str) -> None:
    """Print a line for the user on stderr: stdout is for results."""
    print(f"milepost: {text}", file=sys.stderr, flush=True)


def agreed(question: str) -> bool:
    """Ask the user on stderr. Only `y` or `yes` on stdin is a yes; a stdin that cannot be read is a no."""
    print(f"milepost: {question} [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip().lower() in {"y", "yes"}
    except (OSError, UnicodeDecodeError):
        return False


def plain(text: str) -> str:
    """Escape line ends and the control characters that a terminal would act upon."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def brief(data: Any) -> str:
    """Write data as JSON on one line, or a string as it is with its control characters escaped."""
    return plain(data) if isinstance(data, str) else dumps(data)


def table(*headings: str, numbers: Sequence[str] = ()) -> Table:
    """Make a table without lines: left-justified columns, then right-justified ones for numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        made.add_column(heading, no_wrap=True, overflow="ignore")
    for heading in numbers:
        made.add_column(heading, no_wrap=True, overflow="crop", justify="right")  # "ignore" would ignore it too
    return made


def show(shown: Table) -> None:
    """Print a table without cutting its lines: the terminal wraps them."""
    Console(highlight=False, markup=False, width=WIDEST).print(shown)
