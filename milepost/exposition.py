"""Counters, gauges and histograms in Prometheus' text format, version 0.0.4.

In place of prometheus-client, whose import alone takes as long as the rest of a function's start. For one event loop:
nothing is locked. Whoever counts often keeps the result of `labels` and pays for an addition.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of a histogram's buckets, in seconds; one more is above them."""

Labels = Sequence[tuple[str, str]]
Sample = tuple[str, Labels, float]
"""What follows the family's name, the labels, the value."""


class Value:
    """A counter's or a gauge's number."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1) -> None:
        self.value += by

    def set(self, value: float) -> None:
        self.value = value

    def samples(self, labels: Labels) -> Iterator[Sample]:
        yield "", labels, self.value


class Buckets:
    """A histogram's numbers: `counts` of what fell between two bounds, and the sum of all, in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds

    def samples(self, labels: Labels) -> Iterator[Sample]:
        for bound, count in zip((*SECONDS, "+Inf"), accumulate(self.counts), strict=True):
            yield "_bucket", sorted([*labels, ("le", str(bound))]), count
        yield "_count", labels, sum(self.counts)
        yield "_sum", labels, self.sum


Child = TypeVar("Child", Value, Buckets)


class Family(Generic[Child]):
    """One metric: its name, `counter`, `gauge` or `histogram`, and a child for each set of label values."""

    def __init__(self, name: str, kind: str, text: str, names: Sequence[str], child: type[Child]) -> None:
        self.name = name
        self.kind = kind
        self.text = text
        self.names = tuple(names)
        self._make: type[Child] = child
        self._children: dict[tuple[str, ...], Child] = {}
        if not names:
            self.labels()

    def labels(self, *values: str) -> Child:
        """The child of these values, in the order of `names`."""
        if (child := self._children.get(values)) is None:
            if len(values) != len(self.names):
                raise ValueError(f"{self.name}: has the labels {', '.join(self.names)}")
            child = self._children[values] = self._make()
        return child

    def clear(self) -> None:
        """Forget every child."""
        self._children.clear()

    def samples(self) -> Iterator[Sample]:
        """Labels are in the order of their names."""
        for values, child in self._children.items():
            yield from child.samples(sorted(zip(self.names, values, strict=True)))


class Registry:
    """The metrics of one component."""

    def __init__(self) -> None:
        self.families: list[Family[Value] | Family[Buckets]] = []
        self._befores: list[Callable[[], None]] = []

    def counter(self, name: str, text: str, *labels: str) -> Family[Value]:
        """Only goes up; its name ends in `_total`."""
        return self._value(name, "counter", text, labels)

    def gauge(self, name: str, text: str, *labels: str) -> Family[Value]:
        """Goes up and down."""
        return self._value(name, "gauge", text, labels)

    def histogram(self, name: str, text: str, *labels: str) -> Family[Buckets]:
        """Times; its name ends in `_seconds`."""
        family = Family(name, "histogram", text, labels, Buckets)
        self.families.append(family)
        return family

    def _value(self, name: str, kind: str, text: str, labels: Sequence[str]) -> Family[Value]:
        family = Family(name, kind, text, labels, Value)
        self.families.append(family)
        return family

    def before(self, look: Callable[[], None]) -> None:
        """Call this before the values are read, for those that are looked up rather than counted."""
        self._befores.append(look)

    def text(self) -> str:
        """All of it, as Prometheus reads it."""
        self._look()
        return "".join(line for family in self.families for line in _lines(family))

    def value(self, name: str, **labels: str) -> float:
        """One sample, by the name it has in `text`; 0 if there is none."""
        self._look()
        wanted = sorted(labels.items())
        for family in self.families:
            for suffix, found, value in family.samples():
                if family.name + suffix == name and list(found) == wanted:
                    return value
        return 0.0

    def _look(self) -> None:
        for look in self._befores:
            look()


def _lines(family: Family[Value] | Family[Buckets]) -> Iterator[str]:
    yield f"# HELP {family.name} {_escaped(family.text)}\n"
    yield f"# TYPE {family.name} {family.kind}\n"
    for suffix, labels, value in family.samples():
        shown = ",".join(f'{name}="{_quoted(text)}"' for name, text in labels)
        yield f"{family.name}{suffix}{f'{{{shown}}}' if shown else ''} {float(value)!r}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"").encode(errors="replace").decode()
