"""The table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.bench import FLOOR, OURS, Bench, Figure, Measured

DURABLE = "ours, appendfsync always"


@dataclass(frozen=True)
class Row:
    """One figure, of us and of the others."""

    name: str
    figure: Figure
    ours: float
    floor: float | None
    peers: Mapping[str, float]

    @property
    def reached(self) -> bool:
        return self.figure.reached(self.ours)

    @property
    def ratios(self) -> dict[str, float]:
        """Ours divided by each peer's figure."""
        return {name: self.ours / value if value else inf for name, value in self.peers.items()}

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.figure.unit,
            "ours": self.ours,
            "goal": self.figure.goal,
            "floor": self.floor,
            "peers": dict(self.peers),
            "ratios": {name: ratio for name, ratio in self.ratios.items() if ratio != inf},
        }


def rows(bench: Bench, measured: Mapping[str, Measured]) -> list[Row]:
    """A row for each figure of a benchmark, and one more for the figure with every write on disk at once."""
    found = []
    for one in bench.figures:
        by = {name: figures[one.key] for name, figures in measured.items() if one.key in figures}
        peers = {name: value for name, value in by.items() if name not in {OURS, DURABLE, FLOOR}}
        found.append(Row(one.name, one, by[OURS], by.get(FLOOR), peers))
        if DURABLE in by:
            found.append(Row(f"{one.name} (appendfsync always)", replace(one, goal=None), by[DURABLE], None, {}))
    return found


def figure(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def show(found: Iterable[Row]) -> None:
    """Print the table."""
    table = Table("what", "unit", "ours", "goal", "floor", "peers (ours divided by theirs)")
    for row in found:
        sign = "≥" if row.figure.more_is_better else "≤"
        goal = f"{sign} {figure(row.figure.goal)}" if row.figure.goal is not None else ""
        ours = figure(row.ours) if row.reached else f"[bold]{figure(row.ours)} ✗[/bold]"
        peers = "\n".join(f"{name}: {figure(row.peers[name])} ({figure(ratio)})" for name, ratio in row.ratios.items())
        table.add_row(row.name, row.figure.unit, ours, goal, figure(row.floor), peers)
    Console(width=None if Console().is_terminal else 200).print(table)
