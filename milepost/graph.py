"""The graph of stages: which channels follow from which. All code that walks the graph is here."""

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, NamedTuple, Protocol

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel

BEHIND_FRESH = 60_000
"""Milliseconds after which a stage behind the Broker, which no bridge has named again, has gone."""

LONGEST_FIELD = 200
"""Most characters of the name of a field that a stage is ordered by."""

Channels = str | Iterable[str] | None
"""One channel, several, or none."""

ONE_EMITTER = "one channel is emitted by at most one stage: answers of two to one event would have the same id there"
"""Why a table is refused in which two stages emit on one channel."""


def several(channels: Any) -> Any:
    """Return the channels of a table's row as a tuple: a row has one as text, several as a list, or none."""
    if channels is None:
        return ()
    return (channels,) if isinstance(channels, str) else channels


def distinct(channels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the channels. Raises ValueError if one of them is named twice."""
    for channel in channels:
        if channels.count(channel) > 1:
            raise ValueError(f"names {channel} twice")
    return channels


Emits = Annotated[tuple[str, ...], BeforeValidator(several), AfterValidator(distinct)]
"""The field `emits` of a table: `approved`, or `[approved, declined]` for a stage that emits one of them."""


def order_word(order: Any) -> Any:
    """Return the field `order` of a table's row: a field of the data, true, or false for no order.

    Raises ValueError for anything else.
    """
    if order is None or isinstance(order, bool):
        return bool(order)
    if isinstance(order, str) and 0 < len(order) <= LONGEST_FIELD:
        return order
    raise ValueError("must be true (order by partitionkey), or the name of a field of the data")


Order = Annotated[str | bool, BeforeValidator(order_word)]
"""The field `order` of a table: events with the same value of this field of their data, or with true of their attribute
`partitionkey`, are delivered one at a time and in the order of the journal.
"""


def order_name(order: Order) -> str:
    """Return the field or attribute that the events of a stage are ordered by; empty if they are in no order."""
    return order if isinstance(order, str) else "partitionkey" if order else ""


class Node(NamedTuple):
    """A stage: its name, and the channels that it consumes and emits. It answers an event on one of those."""

    name: str
    consumes: Channels
    emits: Channels


def nodes(table: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Node]:
    """Yield the stages of the stages table in Redis, from its rows by name.

    In broker mode that has one row, the Broker's. The stages behind it are in this row, if its bridge is new enough.
    """
    for name, row in table:
        yield from _behind(row) or [Node(name, row["consumes"], row["emits"])]


def _behind(row: Mapping[str, Any]) -> list[Node]:
    """Return the stages behind a route; none if an older bridge, or another program, has written the row."""
    try:
        fresh = [(name, one) for name, one in row["behind"].items() if row["beat"] - one["beat"] < BEHIND_FRESH]
        return [Node(name, tuple(one["consumes"]), tuple(one["emits"].split())) for name, one in fresh]
    except (AttributeError, KeyError, TypeError):
        return []


class Wired(Protocol):
    """Anything with a name and the channels that it consumes and emits."""

    @property
    def name(self) -> str: ...
    @property
    def consumes(self) -> Channels: ...
    @property
    def emits(self) -> Channels: ...


class Answering(Wired, Protocol):
    """A stage of a table that is checked."""

    @property
    def split(self) -> bool: ...


def check(stages: Sequence[Answering]) -> None:
    """Raise ValueError if two stages emit on one channel, or if an event would come back to a stage with its id."""
    graph = Graph(stages)
    for channel in graph.emitted_twice:
        raise ValueError(f"{channel} is emitted by {' and '.join(graph.emitters(channel))}; {ONE_EMITTER}")
    if circle := Graph(stage for stage in stages if not stage.split).circles:
        raise ValueError(
            f"{' and '.join(circle)} are a circle: an event would come by again, perhaps for ever, and with the same "
            "id each time, as a redelivery does; split: true in one of them gives each round an id of its own"
        )


class WiredStage(BaseModel):
    """A stage of `helm/values.yaml` as `milepost up` and the chart give it to the gateway, in JSON."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    name: str
    consumes: str
    emits: Emits = ()
    split: bool = False
    order: Order = False
    external: bool = False
    """Whether the receiver is someone else's, and no function of the project."""
    wake: str = "event"
    """`page`: the gateway asks for its wake-up when a visitor opens the form."""
    wake_after: timedelta = timedelta(seconds=30)
    """How often at most."""


class Graph:
    """The stages in their given order, and the channels between them."""

    def __init__(self, stages: Iterable[Wired]) -> None:
        self.consumes: dict[str, tuple[str, ...]] = {}
        self.emits: dict[str, tuple[str, ...]] = {}
        for stage in stages:
            self.consumes[stage.name] = tuple(several(stage.consumes))
            self.emits[stage.name] = tuple(several(stage.emits))
        self._consumers: dict[str, list[str]] = {}
        for name, consumed in self.consumes.items():
            for channel in dict.fromkeys(consumed):
                self._consumers.setdefault(channel, []).append(name)

    @property
    def channels(self) -> tuple[str, ...]:
        """Every channel that a stage consumes or emits, in the order of the stages."""
        return tuple(dict.fromkeys(c for name in self.consumes for c in (*self.consumes[name], *self.emits[name])))

    def emitters(self, channel: str) -> list[str]:
        """The stages that emit on a channel. More than one is a fault: their events would have the same ids."""
        return [name for name, emitted in self.emits.items() if channel in emitted]

    @property
    def emitted_twice(self) -> list[str]:
        """The channels that more than one stage emits."""
        return [channel for channel in self.channels if len(self.emitters(channel)) > 1]

    @property
    def circles(self) -> list[str]:
        """The stages on a circle, and those between two circles: an event that leaves a circle's stage may return."""
        left = dict.fromkeys(self.consumes)
        while True:
            consumed = {channel for name in left for channel in self.consumes[name]}
            emitted = {channel for name in left for channel in self.emits[name]}
            ends = [n for n in left if consumed.isdisjoint(self.emits[n]) or emitted.isdisjoint(self.consumes[n])]
            if not ends:
                return list(left)
            for name in ends:
                del left[name]

    def begins(self, reached: Collection[str]) -> list[str]:
        """The channels on which an event began, of those that it has reached: no stage that consumes another of them
        emits on these.
        """
        led = {emitted for channel in reached for emitted in self._following(channel) if emitted != channel}
        return [channel for channel in reached if channel not in led] or [*reached][:1]

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

    def ahead(self, first: str, reached: Collection[str], ended: Collection[str] = ()) -> tuple[str, ...]:
        """The channels that an event which began on `first` may still reach, nearest first. Where a stage has chosen
        one of its channels, the others are not among them. At the stages `ended` the event itself has ended: they have
        made parts of it, or have not answered it.
        """
        walked = [first]
        for channel in walked:  # grows meanwhile
            for name in self.consumes:
                if channel in self.consumes[name]:
                    chosen = [emitted for emitted in self.emits[name] if emitted in reached and emitted != channel]
                    if name in ended and not chosen:
                        continue
                    emits = self.emits[name] if len(self.consumes[name]) > 1 or not chosen else chosen
                    walked += [emitted for emitted in emits if emitted not in walked]
        return tuple(channel for channel in walked if channel not in reached)

    def is_finished(self, first: str, reached: Collection[str], ended: Mapping[str, bool] | None = None) -> bool:
        """Whether an event that began on `first` has no channel to come. Each stage on its way emits one channel of
        its `emits`, and that channel's stages have to finish it, too. In broker mode an older bridge names only the
        Broker, with all channels: then all ends have to be reached. `ended`: for each stage that has made parts of the
        event, whether all of them have ended; true for one that has not answered it.
        """
        if any(len(consumed) > 1 for consumed in self.consumes.values()):
            return self.ends(first) <= set(reached)
        return self._is_finished(first, reached, ended or {}, frozenset())

    def _is_finished(
        self, channel: str, reached: Collection[str], ended: Mapping[str, bool], before: frozenset[str]
    ) -> bool:
        if channel in before:
            return False  # a circle ends nowhere
        emitting = [name for name in self.consumes if channel in self.consumes[name] and self.emits[name]]
        if not emitting:
            return channel in reached
        before |= {channel}
        return all(
            ended[name]
            if name in ended and not any(emitted in reached for emitted in self.emits[name] if emitted not in before)
            else any(self._is_finished(emitted, reached, ended, before) for emitted in self.emits[name])
            for name in emitting
        )

    def consumers(self, channel: str) -> list[str]:
        """The stages that consume a channel."""
        return list(self._consumers.get(channel, ()))

    def downstream(self, stages: Iterable[str], *, stops: Container[str] = ()) -> list[str]:
        """The stages that an event may reach after these, nearest first. None of `stops`, and none behind them."""
        given = dict.fromkeys(stages)
        found = list(given)
        known = set(given)
        for name in found:  # grows meanwhile
            for channel in self.emits[name]:
                after = [one for one in self._consumers.get(channel, ()) if one not in known and one not in stops]
                known.update(after)
                found += after
        return found[len(given) :]

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
