"""The graph of stages: which channels follow from which. All code that walks the graph is here."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

Channels = str | Iterable[str] | None
"""One channel, several, or none."""


class Node(NamedTuple):
    """A stage: its name, and the channels that it consumes and emits."""

    name: str
    consumes: Channels
    emits: Channels


class Wired(Protocol):
    """Anything with a name and the channels that it consumes and emits."""

    @property
    def name(self) -> str: ...
    @property
    def consumes(self) -> Channels: ...
    @property
    def emits(self) -> Channels: ...


class Graph:
    """The stages in their given order, and the channels between them."""

    def __init__(self, stages: Iterable[Wired]) -> None:
        self.consumes: dict[str, tuple[str, ...]] = {}
        self.emits: dict[str, tuple[str, ...]] = {}
        for stage in stages:
            self.consumes[stage.name] = _several(stage.consumes)
            self.emits[stage.name] = _several(stage.emits)

    @property
    def channels(self) -> tuple[str, ...]:
        """Every channel that a stage consumes or emits, in the order of the stages."""
        return tuple(dict.fromkeys(c for name in self.consumes for c in (*self.consumes[name], *self.emits[name])))

    def emitters(self, channel: str) -> list[str]:
        """The stages that emit on a channel. More than one is a fault: nobody could tell their events apart."""
        return [name for name, emitted in self.emits.items() if channel in emitted]

    @property
    def emitted_twice(self) -> list[str]:
        """The channels that more than one stage emits."""
        return [channel for channel in self.channels if len(self.emitters(channel)) > 1]

    def reached(self, first: str) -> tuple[str, ...]:
        """The channels that an event on `first` may lead to, nearest first; `first` is the first of them."""
        reached = [first]
        for channel in reached:  # grows meanwhile
            for emitted in self._following(channel):
                if emitted not in reached:
                    reached.append(emitted)
        return tuple(reached)

    def ends(self, first: str) -> frozenset[str]:
        """The channels on which an event that began on `first` ends: they lead to no other."""
        return frozenset(channel for channel in self.reached(first)[1:] if not self._following(channel))

    @property
    def in_order(self) -> list[str]:
        """The stages in the order of an event: each after those that emit its channel, except in a circle."""
        left, ordered = list(self.consumes), list[str]()
        while left:
            ahead = {channel for name in left for channel in self.emits[name]}
            ready = [name for name in left if not ahead & set(self.consumes[name])] or left[:1]
            ordered += ready
            left = [name for name in left if name not in ready]
        return ordered

    def _following(self, channel: str) -> list[str]:
        return [emitted for name in self.consumes if channel in self.consumes[name] for emitted in self.emits[name]]


def _several(channels: Channels) -> tuple[str, ...]:
    if channels is None:
        return ()
    return (channels,) if isinstance(channels, str) else tuple(channels)
