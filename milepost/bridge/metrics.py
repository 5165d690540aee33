"""What a bridge counts, for Prometheus. docs/metrics.md has the table."""

from typing import get_args

from milepost.bridge.verdict import Delivered, Verdict
from milepost.exposition import Registry
from milepost.journal import Depth

COLD_AFTER = 5.0
"""Seconds without an answer after which a stage may have been scaled to zero. Knative's shortest window is 6 s."""

COLD_START = 0.5
"""Seconds that a first answer after that must have taken to be taken for a cold start."""


class Metrics:
    """One bridge's own registry: several may live in one process."""

    def __init__(self) -> None:
        made = self.registry = Registry()
        self.attempts = made.counter("milepost_attempts_total", "Deliveries begun, repeats included", "stage")
        self.deliveries = made.counter("milepost_deliveries_total", "Deliveries ended, by outcome", "stage", "outcome")
        self.seconds = made.histogram("milepost_delivery_seconds", "From POST to answer, or to its failure", "stage")
        self.in_flight = made.gauge("milepost_in_flight", "Deliveries on the wire", "stage")
        self.cold_starts = made.counter(
            "milepost_cold_starts_total",
            f"First answers after {COLD_AFTER:g} s without one that took {COLD_START:g} s or more",
            "stage",
        )
        self.stale = made.counter("milepost_stale_total", "Deliveries whose entry someone else had settled", "stage")
        self.dead = made.counter("milepost_dead_letters_total", "Events this bridge has buried", "stage")
        self.destroyed = made.counter("milepost_destroyed_total", "Pending entries an operator had deleted", "stage")
        self.adopted = made.counter("milepost_adopted_total", "Foreign messages by outcome", "channel", "outcome")
        self.adoption_overflow = made.counter(
            "milepost_adoption_overflow_total", "Foreign messages dropped for want of room"
        ).labels()
        self.unreadable_dropped = made.counter(
            "milepost_unreadable_dropped_total", "Unreadable messages that newer ones pushed out"
        ).labels()
        self.accepted = made.counter("milepost_accepted_total", "Events by HTTP door and status", "door", "outcome")
        self.leading = made.gauge("milepost_leading", "1 while this bridge holds the lease").labels()
        self._backlog = made.gauge("milepost_backlog_events", "Events journaled for a stage and not settled", "stage")
        self._parked = made.gauge("milepost_parked_events", "Events that wait for their next attempt", "stage")
        self._buried = made.gauge("milepost_dead_events", "Dead letters that are kept", "stage")
        self._oldest = made.gauge(
            "milepost_oldest_pending_seconds",
            "Since the oldest event was journaled that a stage has before it",
            "stage",
        )

    def show(self, depths: list[Depth]) -> None:
        """What lies before each stage by now; nothing of a stage is shown that is not named, rather than what was."""
        for family in (self._backlog, self._parked, self._buried, self._oldest):
            family.clear()
        for depth in depths:
            self._backlog.labels(depth.stage).set(depth.backlog)
            self._parked.labels(depth.stage).set(depth.parked)
            self._buried.labels(depth.stage).set(depth.dead)
            self._oldest.labels(depth.stage).set(depth.oldest or 0)


class RouteMetrics:
    """What one route counts. Every event passes here: the children are looked up once."""

    def __init__(self, metrics: Metrics, stage: str) -> None:
        self.stage = stage
        self.attempts = metrics.attempts.labels(stage)
        self.seconds = metrics.seconds.labels(stage)
        self.in_flight = metrics.in_flight.labels(stage)
        self.cold_starts = metrics.cold_starts.labels(stage)
        self.stale = metrics.stale.labels(stage)
        self.dead = metrics.dead.labels(stage)
        self.destroyed = metrics.destroyed.labels(stage)
        self.outcomes = {kind: metrics.deliveries.labels(stage, kind.__name__.lower()) for kind in get_args(Verdict)}
        self._latest = float("-inf")

    def began(self) -> None:
        """A POST goes out."""
        self.attempts.value += 1
        self.in_flight.value += 1

    def ended(self) -> None:
        """It is answered, has failed, or was given up."""
        self.in_flight.value -= 1

    def judged(self, verdict: Verdict, began: float, now: float) -> None:
        """What became of a POST that went out at `began`, in seconds of any clock."""
        kind = type(verdict)
        seconds = now - began
        self.outcomes[kind].value += 1
        self.seconds.observe(seconds)
        if seconds >= COLD_START and kind is Delivered and began - self._latest >= COLD_AFTER:
            self.cold_starts.value += 1
        self._latest = now
