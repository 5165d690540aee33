"""What the gateway counts, for Prometheus. docs/metrics.md has the table."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from milepost.exposition import Registry

METHODS = frozenset({"GET", "HEAD", "POST"})

UNROUTED = "other"
"""Label of what no route or no method of ours is for: who asks must not make metrics."""


class Metrics:
    """One process's own registry."""

    def __init__(self) -> None:
        made = self.registry = Registry()
        self.requests = made.counter(
            "milepost_gateway_requests_total",
            "Requests answered, by route and HTTP status",
            "route",
            "method",
            "status",
        )
        self.seconds = made.histogram(
            "milepost_gateway_response_seconds", "From a request to the head of its answer", "route"
        )
        self.in_flight = made.gauge(
            "milepost_gateway_in_flight", "Requests not answered to the end, live streams among them"
        ).labels()


class Counted:
    """Counts every request that passes. Made to be the outermost middleware but for Starlette's own."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
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
            self.metrics.requests.labels(route, method, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - began)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        self.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, counted)
        except Exception:
            if not answered:
                count(500)  # Starlette answers it outside of every middleware
            raise
        finally:
            self.metrics.in_flight.inc(-1)


def _route(scope: Scope) -> str:
    """The route's template, such as /submissions/{id}: never what was asked for."""
    path = getattr(scope.get("route"), "path", None)
    if isinstance(path, str):
        return path
    return "/static" if scope.get("root_path") == "/static" else UNROUTED
