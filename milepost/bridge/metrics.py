"""What a bridge counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One bridge's own registry: several may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.deliveries = self._counter("deliveries", "Deliveries by stage and outcome", "stage", "outcome")
        self.seconds = Histogram(
            "milepost_delivery_seconds", "Time from POST to answer", ["stage"], registry=self.registry
        )
        self.stale = self._counter("stale", "Deliveries whose entry someone else had settled", "stage")
        self.dead = self._counter("dead_letters", "Events buried", "stage")
        self.destroyed = self._counter("destroyed", "Pending entries an operator had deleted", "stage")
        self.adopted = self._counter("adopted", "Foreign messages by channel and outcome", "channel", "outcome")
        self.adoption_overflow = self._counter("adoption_overflow", "Foreign messages dropped for want of room")
        self.unreadable_dropped = self._counter("unreadable_dropped", "Unreadable messages that newer ones pushed out")
        self.accepted = self._counter("accepted", "Events by HTTP door and outcome", "door", "outcome")
        self.leading = Gauge("milepost_leading", "1 while this bridge holds the lease", registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"milepost_{name}", text, labels, registry=self.registry)
