"""Text for a terminal."""

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import Console
from rich.table import Table

from milepost.events.strict_json import dumps

WIDEST = 10_000
"""Characters in a line of a table."""


def say(text: str) -> None:
    """A line for the user on stderr, beside what stdout is read for."""
    print(f"milepost: {text}", file=sys.stderr, flush=True)


def agreed(question: str) -> bool:
    """Whether the user says yes. The question goes to stderr; no answer is no."""
    print(f"milepost: {question} [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip().lower() in {"y", "yes"}
    except (OSError, UnicodeDecodeError):
        return False


def plain(text: str) -> str:
    """`text` on one line, without anything a terminal would act upon."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def brief(data: Any) -> str:
    """JSON on one line, readable: as it is where that is printable."""
    return plain(data) if isinstance(data, str) else dumps(data)


def table(*headings: str, numbers: Sequence[str] = ()) -> Table:
    """A table without lines: columns, and a heading for each; then those of numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        made.add_column(heading, no_wrap=True, overflow="ignore")
    for heading in numbers:
        made.add_column(heading, no_wrap=True, overflow="crop", justify="right")  # "ignore" would ignore it too
    return made


def show(shown: Table) -> None:
    """Print a table whole: a long line is for the terminal to wrap, and for a pipe to keep."""
    Console(highlight=False, markup=False, width=WIDEST).print(shown)


def installed_version() -> str:
    """Milepost's own version, as it is installed."""
    try:
        return version("milepost")
    except PackageNotFoundError:
        return "(not installed)"
