"""A benchmark: figures, and contenders that each measure all of them in one trial."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.harness import Harness

OURS = "ours"
FLOOR = "floor"
"""Names of the contenders that have columns of their own. The floor does the same work and keeps nothing."""

Measured = Mapping[str, float]
"""The figures of one trial by key."""

Trial = Callable[[Harness], Measured]


@dataclass(frozen=True)
class Figure:
    """One row of the table: its text, its unit, and its goal."""

    key: str
    name: str
    unit: str
    goal: float | None = None
    more_is_better: bool = False

    def reached(self, value: float) -> bool:
        """Whether `value` is at least as good as the goal."""
        return self.goal is None or (value >= self.goal if self.more_is_better else value <= self.goal)


@dataclass(frozen=True)
class Bench:
    """Contenders are run in turn, `ours` twice if `durable`: with `appendfsync everysec` and with `always`."""

    name: str
    figures: tuple[Figure, ...]
    contenders: Mapping[str, Trial] = field(default_factory=dict)
    durable: bool = True
