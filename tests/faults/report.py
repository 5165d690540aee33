"""The table, on a terminal and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table

from tests.faults.checker import Verdict
from tests.faults.recovery import Recovery


@dataclass
class Row:
    """One line of the table; the fields, in this order, are its columns and the keys of its JSON."""

    fault: str
    accepted: int
    emails: int
    lost: int
    doubled: int
    stuck: int
    resent: int
    destroyed: int
    recover_s: float
    again_s: float
    overtook: int
    closed_s: float

    @classmethod
    def of(cls, fault: str, verdict: Verdict, recover_s: float, recovery: Recovery) -> Self:
        figures = {name: value for name, value in vars(verdict).items() if name in cls.columns()}
        return cls(fault, **figures, recover_s=round(recover_s, 1), **vars(recovery))

    @classmethod
    def columns(cls) -> list[str]:
        return [column.name for column in fields(cls)]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Result:
    """A row's name, its figures, its faults, its remarks, and the reason if it was not run."""

    name: str
    row: Row | None
    wrong: Sequence[str] = ()
    notes: Sequence[str] = ()
    skipped: str = ""


def table(results: Sequence[Result]) -> Table:
    made = Table(*Row.columns(), box=None, header_style="bold")
    for column in made.columns[1:]:
        column.justify = "right"
    for result in results:
        if result.row is None:
            why = result.skipped or "; ".join(result.wrong)
            made.add_row(f"{result.name}: not run, {why}", style="dim" if result.skipped else "red")
        else:
            made.add_row(*map(str, result.row.as_json().values()), style="red" if result.wrong else "")
    return made


def show(console: Console, results: Sequence[Result]) -> None:
    console.print(table(results))
    for result in results:
        if result.row is not None:
            for what in (*result.wrong, *result.notes):
                console.print(f"{result.name}: {what}", soft_wrap=True, markup=False)


def write(path: Path, results: Sequence[Result]) -> None:
    path.write_text(json.dumps([result.row.as_json() for result in results if result.row], indent=2) + "\n")


def write_markdown(path: Path, results: Sequence[Result]) -> None:
    columns = Row.columns()
    lines = [f"| {' | '.join(columns)} |", f"| --- {'| ---: ' * (len(columns) - 1)}|"]
    lines += [f"| {' | '.join(map(str, result.row.as_json().values()))} |" for result in results if result.row]
    path.write_text("\n".join(lines) + "\n")
