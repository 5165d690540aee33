"""Measure from a history how soon, and in which order, events are delivered again after a process ended."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from tests.faults.checker import is_success
from tests.faults.history import Operation


@dataclass(frozen=True)
class Recovery:
    """`again_s`: the longest time from the end of a process to the next delivery of an event delivered before it.

    `overtook`: events delivered for the first time between the first and the last of these deliveries to a stage.
    """

    again_s: float = 0.0
    overtook: int = 0


def recovery(history: Iterable[Operation]) -> Recovery:
    """A redelivery belongs to the last end of a process before it."""
    deliveries: defaultdict[str, defaultdict[str | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    ends: list[float] = []
    for operation in history:  # they are sorted by `begin`
        if operation.kind == "end":
            ends.append(operation.begin)
        elif operation.kind == "deliver":
            deliveries[operation.by][operation.id].append(operation.begin)
    longest, overtook = 0.0, 0
    for times in deliveries.values():
        again: defaultdict[int, list[float]] = defaultdict(list)
        for begins in times.values():
            for before, after in pairwise(begins):
                last = bisect_right(ends, after) - 1
                if last >= 0 and before <= ends[last]:
                    again[last].append(after)
        first = sorted(begins[0] for begins in times.values())
        for last, begins in again.items():
            longest = max(longest, max(begins) - ends[last])
            overtook += bisect_right(first, max(begins)) - bisect_right(first, min(begins))
    return Recovery(round(longest, 1), overtook)


def closed(history: Iterable[Operation], decided: float) -> str:
    """How long no door accepted anything, and how much of it came after the servers had `decided` on a primary."""
    accepted = sorted(
        operation.end
        for operation in history
        if operation.kind == "publish" and operation.end is not None and is_success(operation)
    )
    before, after = max(pairwise(accepted), key=lambda pair: pair[1] - pair[0])
    later = next((moment for moment in accepted if moment > decided), decided) - decided
    return (
        f"nothing was accepted for {after - before:.1f} s; the first event after the decision came {later:.1f} s later"
    )
