"""The metrics of each component, as its code has them."""

from typing import NamedTuple

from prometheus_client import CollectorRegistry

from gateway.metrics import GatewayMetrics
from milepost.bridge.metrics import BridgeMetrics
from milepost.journal import Depth


class Family(NamedTuple):
    """A metric: its name as Prometheus shows it, its type, the names of its labels and its help text."""

    name: str
    kind: str
    names: tuple[str, ...]
    text: str


def _of_bridge() -> list[Family]:
    metrics = BridgeMetrics()
    metrics.of_stage("stage")  # a series of each family: only these have labels
    metrics.show([Depth("stage", 0, 0, 0, None)])
    metrics.unserved_dropped.labels("channel")
    metrics.adopted.labels("channel", "done")
    metrics.accepted.labels("events", "202")
    metrics.wakeups.labels("stage")
    return _collected(metrics.registry)


def _collected(registry: CollectorRegistry) -> list[Family]:
    found = []
    for metric in registry.collect():
        names = tuple(name for name in metric.samples[0].labels if name != "le")
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        found.append(Family(name, metric.type, names, metric.documentation))
    return found


def _of_gateway() -> list[Family]:
    metrics = GatewayMetrics()
    metrics.requests.labels("route", "GET", "200")
    metrics.seconds.labels("route")
    return _collected(metrics.registry)


COMPONENTS = {
    "the bridge": _of_bridge(),
    "the gateway": _of_gateway(),
}
FAMILIES = {family.name: family for families in COMPONENTS.values() for family in families}
