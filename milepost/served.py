"""What one function has served: counted by itself, shown at its `GET /metrics`."""

import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from milepost.exposition import CONTENT_TYPE, Registry

PATH = "/metrics"

Answer = Callable[[Request], Awaitable[Response]]


class Served:
    """Of one stage, in this process. A pod that is scaled to zero takes its counts with it."""

    def __init__(self, stage: str) -> None:
        made = self.registry = Registry()
        self._stage = stage
        self._requests = made.counter(
            "milepost_function_requests_total", "Events answered, by HTTP status", "stage", "status"
        )
        self._seconds = made.histogram(
            "milepost_function_request_seconds", "From an event's arrival to its answer", "stage"
        ).labels(stage)
        self._in_flight = made.gauge("milepost_function_in_flight", "Events being worked on", "stage").labels(stage)

    def counted(self, answer: Answer) -> Answer:
        """The same, counted."""

        async def counted(request: Request) -> Response:
            began = time.perf_counter()
            self._in_flight.inc()
            try:
                response = await answer(request)
            finally:
                self._in_flight.inc(-1)
            self._requests.labels(self._stage, str(response.status_code)).inc()
            self._seconds.observe(time.perf_counter() - began)
            return response

        return counted

    def page(self) -> Response:
        """What Prometheus reads."""
        return Response(self.registry.text(), media_type=CONTENT_TYPE)
