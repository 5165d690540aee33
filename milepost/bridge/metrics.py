"""The metrics of a bridge, for Prometheus and for /ops. docs/reference.md has the table."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from milepost.bridge.outcome import Delivered, Outcome
from milepost.journal import Depth
from milepost.journal.stats import SECONDS, Counts

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a series for each counter

COLD_AFTER = 5.0
"""Seconds without a response after which a stage may have been scaled to zero. Knative's shortest window is 6 s."""

COLD_START = 0.5
"""Seconds from which on the first response after that counts as a cold start."""


@dataclass(slots=True)
class StageMetrics:
    """The counts of one route. Each event changes them, so they are plain numbers until `BridgeMetrics.collect`.

    `in_flight`: events that are being POSTed. `buckets` is a histogram of delivery times: one count for each bound in
    SECONDS and one above.
    """

    in_flight: int = 0
    unread: int = 0
    paused: int = 0
    outcomes: Counter[type] = field(default_factory=Counter)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    seconds: float = 0.0
    cold_starts: int = 0
    stale: int = 0
    dead_letters: int = 0
    destroyed: int = 0
    latest: float = float("-inf")

    def delivered(self, outcome: Outcome, began: float, now: float) -> None:
        """Count any outcome of one event, a failure too. `began`: when it was POSTed, in seconds of any clock."""
        kind = type(outcome)
        seconds = now - began
        self.outcomes[kind] += 1
        self.buckets[bisect_left(SECONDS, seconds)] += 1
        self.seconds += seconds
        if seconds >= COLD_START and kind is Delivered and began - self.latest >= COLD_AFTER:
            self.cold_starts += 1
        self.latest = now

    def counts(self) -> Counts:
        """Return the counts that /ops shows."""
        delivered = self.outcomes[Delivered]
        return Counts(
            delivered=delivered,
            undelivered=self.outcomes.total() - delivered,
            dead=self.dead_letters,
            cold_starts=self.cold_starts,
            seconds=tuple(self.buckets),
        )


_COUNTERS = {
    "cold_starts": f"First responses after {COLD_AFTER:g} s without one that took {COLD_START:g} s or more",
    "stale": "Deliveries whose entry another bridge had settled already",
    "dead_letters": "Dead letters that this bridge has made",
    "destroyed": "Pending entries that an operator had deleted",
}
_DEPTHS = {
    "journaled": ("journaled_events", "Events journaled for a stage and not settled"),
    "held": ("held_events", "Journaled events that wait for an earlier event of their key"),
    "parked": ("parked_events", "Events that wait for the next try or for their time"),
    "dead": ("dead_events", "Dead letters that are kept"),
    "oldest": ("oldest_event_seconds", "Age of the oldest event that a stage has not settled"),
}


class BridgeMetrics:
    """The metrics of one bridge, in a registry of its own: several bridges may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)  # it asks for `collect` alone
        self._stages: dict[str, StageMetrics] = {}
        self._depths: Sequence[Depth] = ()
        self.unserved_dropped = self._counter(
            "unserved_dropped", "Events that were dropped, because only unserved stages had not settled them", "channel"
        )
        self.adopted = self._counter("adopted", "Messages of other programs, by outcome", "channel", "outcome")
        self.adoption_overflow = self._counter(
            "adoption_overflow", "Messages of other programs that were dropped for want of room"
        )
        self.leaderless = self._counter(
            "leaderless_seconds", "Seconds that a bridge knew no leader: plain messages of that time may be lost"
        )
        self.unreadable_dropped = self._counter(
            "unreadable_dropped", "Unreadable messages that were removed for newer ones, or that Redis refused to keep"
        )
        self.wakeups = self._counter("wakeups", "Wake-ups that were sent", "stage")
        self.accepted = self._counter("accepted", "Events that came in, by door and HTTP status", "door", "status")
        self.leading = Gauge("milepost_leading", "1 while this bridge holds the lease", registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(f"milepost_{name}", text, labels, registry=self.registry)

    def of_stage(self, stage: str) -> StageMetrics:
        """Return the counts of this stage, which the caller may change."""
        return self._stages.setdefault(stage, StageMetrics())

    def show(self, depths: Sequence[Depth]) -> None:
        """Set the numbers of events that wait. A stage that is not among `depths` is left out of the metrics."""
        self._depths = tuple(depths)

    def collect(self) -> Iterator[Metric]:
        """Yield the counts and depths of the stages; prometheus_client calls this."""
        for name, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"milepost_{name}", text, labels=["stage"])
            for stage, counts in self._stages.items():
                counter.add_metric([stage], getattr(counts, name))
            yield counter
        outcomes = CounterMetricFamily(
            "milepost_deliveries", "Events whose delivery ended, by outcome", labels=["stage", "outcome"]
        )
        seconds = HistogramMetricFamily(
            "milepost_delivery_seconds", "Seconds from the POST to the response, or to the failure", labels=["stage"]
        )
        in_flight = GaugeMetricFamily("milepost_in_flight", "Events that are being POSTed", labels=["stage"])
        unread = GaugeMetricFamily(
            "milepost_unread_channels", "Channels that the bridge cannot read for the stage", labels=["stage"]
        )
        paused = GaugeMetricFamily(
            "milepost_paused", "1 while this bridge delivers nothing to a paused stage", labels=["stage"]
        )
        for stage, counts in self._stages.items():
            paused.add_metric([stage], min(1, counts.paused))
            for kind in get_args(Outcome):
                outcomes.add_metric([stage, kind.__name__.lower()], counts.outcomes[kind])
            buckets = zip([*map(str, SECONDS), "+Inf"], accumulate(counts.buckets), strict=True)
            seconds.add_metric([stage], [*buckets], counts.seconds)
            in_flight.add_metric([stage], counts.in_flight)
            unread.add_metric([stage], counts.unread)
        yield from (outcomes, seconds, in_flight, unread, paused)
        for field_name, (name, text) in _DEPTHS.items():
            gauge = GaugeMetricFamily(f"milepost_{name}", text, labels=["stage"])
            for depth in self._depths:
                gauge.add_metric([depth.stage], getattr(depth, field_name) or 0)
            yield gauge
