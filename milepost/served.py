"""What one function has served: counted by itself, shown at its `GET /metrics`."""

import time
from collections.abc import Awaitable, Callable

from starlette.responses import Response

from milepost.answer import Answer
from milepost.events.event import Event
from milepost.exposition import CONTENT_TYPE, Registry

PATH = "/metrics"

Answering = Callable[[Event], Awaitable[Answer]]


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

    def counted(self, answering: Answering) -> Answering:
        """The same, each event counted, be it alone or one of many."""

        async def counted(event: Event) -> Answer:
            began = time.perf_counter()
            self._in_flight.inc()
            try:
                answer = await answering(event)
            finally:
                self._in_flight.inc(-1)
            self._seconds.observe(time.perf_counter() - began)
            return self.answered(answer)

        return counted

    def answered(self, answer: Answer) -> Answer:
        """Count an answer."""
        self._requests.labels(self._stage, str(answer.status)).inc()
        return answer

    def page(self) -> Response:
        """What Prometheus reads."""
        return Response(self.registry.text(), media_type=CONTENT_TYPE)
