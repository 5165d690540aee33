"""The gateway's Prometheus metrics. docs/reference.md has the table."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from milepost.journal.stats import SECONDS

METHODS = frozenset({"GET", "HEAD", "POST"})

UNROUTED = "other"
"""The label of requests for no route or no method of ours: clients must not be able to make labels."""


class GatewayMetrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        made = self.registry = CollectorRegistry()
        self.requests = Counter(
            "milepost_gateway_requests_total",
            "Requests answered, by route and HTTP status",
            ["route", "method", "status"],
            registry=made,
        )
        self.seconds = Histogram(
            "milepost_gateway_response_seconds",
            "From a request to the head of its response",
            ["route"],
            buckets=SECONDS,
            registry=made,
        )
        self._counters: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.in_flight = 0
        Gauge(
            "milepost_gateway_in_flight",
            "Requests whose response is not complete, live streams among them",
            registry=made,
        ).set_function(lambda: self.in_flight)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a response. The label values are few, so each set of them is looked up once."""
        key = route, method, status
        if key not in self._counters:
            self._counters[key] = self.requests.labels(route, method, str(status)), self.seconds.labels(route)
        requests, histogram = self._counters[key]
        requests.inc()
        histogram.observe(seconds)


class RequestMetrics:
    """Middleware that counts every request. It must be the outermost but for Starlette's own."""

    def __init__(self, app: ASGIApp, *, metrics: GatewayMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        answered = False

        def count(status: int) -> None:
            nonlocal answered
            answered = True
            route = _route(scope)
            method = scope["method"] if scope["method"] in METHODS else UNROUTED
            self.metrics.answered(route, method, status, time.perf_counter() - began)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        self.metrics.in_flight += 1
        try:
            await self.app(scope, receive, counted)
        except Exception:
            if not answered:
                count(500)  # Starlette answers it outside of every middleware
            raise
        finally:
            self.metrics.in_flight -= 1


def _route(scope: Scope) -> str:
    """The template of the route, such as /submissions/{id}: never the path of the request."""
    path = getattr(scope.get("route"), "path_format", None)
    if isinstance(path, str):
        return path
    return "/static" if scope.get("root_path") == "/static" else UNROUTED
