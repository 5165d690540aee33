"""Measure from a history how soon, and in which order, events are delivered again after a process ended."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.faults.checker import is_success
from tests.faults.history import Operation


@dataclass(frozen=True)
class Recovery:
    """`again_s`: the longest time from the end of a process to the next delivery of an event that was under way: its
    delivery before that had no answer, or a success that the bridge did not settle.

    `overtook`: events delivered for the first time between the first and the last of these deliveries to a stage.
    `closed_s`: the longest time between two accepted submissions.
    """

    again_s: float = 0.0
    overtook: int = 0
    closed_s: float = 0.0


def recovery(history: Iterable[Operation]) -> Recovery:
    """A redelivery belongs to the last end of a process before it."""
    deliveries: defaultdict[str, defaultdict[str | None, list[Operation]]] = defaultdict(lambda: defaultdict(list))
    ends: list[float] = []
    history = list(history)
    for operation in history:  # they are sorted by `begin`
        if operation.kind == "end":
            ends.append(operation.begin)
        elif operation.kind == "deliver":
            deliveries[operation.by][operation.id].append(operation)
    longest, overtook = 0.0, 0
    for by_event in deliveries.values():
        again: defaultdict[int, list[float]] = defaultdict(list)
        for repeated in by_event.values():
            for before, after in pairwise(repeated):
                last = bisect_right(ends, after.begin) - 1
                under_way = before.answer is None or is_success(before)
                if under_way and last >= 0 and before.begin <= ends[last]:
                    again[last].append(after.begin)
        first = sorted(repeated[0].begin for repeated in by_event.values())
        for last, begins in again.items():
            longest = max(longest, max(begins) - ends[last])
            overtook += bisect_right(first, max(begins)) - bisect_right(first, min(begins))
    return Recovery(round(longest, 1), overtook, gap(accepted_at(history)))


def gap(accepted: Sequence[float]) -> float:
    """The longest time between two accepted submissions."""
    return round(max((after - before for before, after in pairwise(accepted)), default=0.0), 1)


def rates(history: Iterable[Operation]) -> str:
    """E-mails a second, from the first one until a process ended, and from when the last was back until the last one.

    If a fault slows nothing down but the machine is busy, both are low.
    """
    history = list(history)
    mails = sorted(operation.begin for operation in history if operation.kind == "mail")
    ends = [operation for operation in history if operation.kind == "end"]
    if not mails or not ends:
        return ""
    first, back = min(end.begin for end in ends), max(end.end or end.begin for end in ends)
    if first <= mails[0] or mails[-1] <= back:
        return ""
    before, after = bisect_left(mails, first), len(mails) - bisect_left(mails, back)
    until, since = first - mails[0], mails[-1] - back
    return f"{before / until:.0f} e-mails a second before the fault, {after / since:.0f} after it"


def after_decision(history: Iterable[Operation], decided: float) -> str:
    """How soon a submission was accepted once the servers had `decided` on a primary."""
    later = next((moment for moment in accepted_at(history) if moment > decided), None)
    return "nothing was accepted after the decision" if later is None else f"accepted {later - decided:.1f} s after it"


def accepted_at(history: Iterable[Operation]) -> list[float]:
    """When submissions were accepted, in this order."""
    return sorted(
        operation.end
        for operation in history
        if operation.kind == "publish" and operation.line and operation.end is not None and is_success(operation)
    )
