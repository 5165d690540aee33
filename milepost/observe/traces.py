"""Traces by OpenTelemetry: one trace for each submission, from the form through every stage.

One of these variables turns traces on: `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`,
`OTEL_TRACES_EXPORTER` (otlp, console or none). The extra `otel` installs the SDK, which is imported only then. Other
variables of OpenTelemetry work too. Names and attributes follow its semantic conventions for messaging and CloudEvents.

The event's extension `traceparent` is the context in which the submission was made; it stays the same on the whole way.
The HTTP header `traceparent` is the context of one hop (CloudEvents, Distributed Tracing extension).
"""

import asyncio
import functools
import logging
import os
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from milepost.errors import ConfigurationError, EventError, TooLarge
from milepost.events.event import Event
from milepost.observe.logs import Fields, is_cut

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

log = logging.getLogger("milepost.observe.traces")

EXTENSIONS = ("traceparent", "tracestate")
"""Extensions of an event that say in which trace it was made. A stage copies them to its reply."""

FLUSH_WITHIN = 1.0
"""Seconds that a function's stop waits for the export of its spans."""

_shared: list["TracerProvider"] = []
"""Those whose spans `export_waiting` exports."""

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
ASKING = (*ENDPOINTS, "OTEL_TRACES_EXPORTER")


@functools.cache
def tracer(component: str, *, shared: bool = False) -> "Tracer | None":
    """Return the tracer of this process, with the component as its `service.name`; None if traces are off, or if the
    SDK is not installed, which is logged. `shared`: spans of other libraries in this process are exported too. The
    gateway's tracer is not shared, because FastAPI would add a span for every request.

    Raises ConfigurationError for an unknown exporter, or an endpoint that cannot be read.
    """
    asked = any(os.environ.get(name) for name in ASKING)
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if not asked or exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if exporter not in {"otlp", "console"}:
        raise ConfigurationError("OTEL_TRACES_EXPORTER: must be otlp, console or none")
    for name in ENDPOINTS:
        if is_cut(os.environ.get(name, "")):
            raise ConfigurationError(f"{name}: must look like http://host:port/path; an @ in a path is written %40")
    try:
        return Tracer(_provider(component, exporter, shared=shared))
    except ImportError as fault:
        log.warning(Fields(outcome="untraced", reason=f"{fault}: the extra `otel` is not installed"))
        return None


def _provider(component: str, exporter: str, *, shared: bool) -> "TracerProvider":
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    present = trace.get_tracer_provider()
    if isinstance(present, TracerProvider):  # another library has set it up, with an exporter
        return present
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": component}
    provider = TracerProvider(resource=Resource.create({"service.namespace": "milepost", **named}))
    # A process that is killed loses the spans that wait: so they wait for one second, not the SDK's five.
    delay = None if os.environ.get("OTEL_BSP_SCHEDULE_DELAY") else 1000
    provider.add_span_processor(BatchSpanProcessor(_exporter(exporter), schedule_delay_millis=delay))
    if shared:
        trace.set_tracer_provider(provider)
        _shared.append(provider)
    return provider


async def export_waiting() -> None:
    """Export the spans of this process that wait, at its stop, for at most FLUSH_WITHIN seconds."""
    for provider in _shared:
        # In a thread of its own, because an exporter has no time limit.
        exporting = threading.Thread(target=provider.force_flush, daemon=True)
        exporting.start()
        await asyncio.to_thread(exporting.join, FLUSH_WITHIN)


def _exporter(name: str) -> "SpanExporter":
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(formatter=lambda span: f"{span.to_json(indent=None)}\n")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


class DeliverySpan:
    """The span of one POST of an event to its stage: the headers to send, and the outcome."""

    def __init__(self, span: "Span", headers: Mapping[str, str], *, begun: bool) -> None:
        self.headers = headers
        """The context of this hop, as HTTP headers."""
        self._span = span
        self._begun = begun

    def answered(self, outcome: str, status: int | None = None) -> None:
        """Set the outcome of the POST. Every outcome but `delivered` is an error of the span."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("milepost.outcome", outcome)
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if outcome != "delivered":
            self._span.set_attribute("error.type", str(status or outcome))
            self._span.set_status(StatusCode.ERROR)

    def handed_on(self, reply: Event) -> Event:
        """Return the reply. If the event had no trace, this delivery begins one, and the reply gets its context."""
        if self._begun or "traceparent" in reply.extensions:
            return reply
        traced = replace(reply, extensions={**reply.extensions, **self.headers})
        try:
            traced.to_json()
        except TooLarge:  # with the context alone
            return reply
        return traced


class Tracer:
    """Makes the spans of Milepost, with the SDK's `provider`."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._tracer = provider.get_tracer("milepost")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def send(self, event: Event) -> Iterator[Event]:
        """Make a span around the publishing of a new event; yield the event with the span's context. Its parent is the
        context that the event came with, unless another instrumentation made a span within that.
        """
        sent = self._context(event.extensions)
        above, here = (self._trace.get_current_span(context).get_span_context() for context in (sent, None))
        within = here.is_valid and (not above.is_valid or above.trace_id == here.trace_id)
        with self._tracer.start_as_current_span(
            f"send {event.type}",
            context=None if within else sent,
            kind=self._trace.SpanKind.PRODUCER,
            attributes=_attributes("send", "send", event),
        ):
            yield replace(event, extensions={**event.extensions, **self._carrier()})

    @contextmanager
    def deliver(self, stage: str, text: bytes, attempts: int) -> Iterator[DeliverySpan]:
        """Make a span around one POST of an event, after so many failed attempts. It belongs to the event's trace."""
        event = _read(text)
        with self._tracer.start_as_current_span(
            f"deliver {event.type}" if event else "deliver",
            context=self._context(event.extensions if event else {}),
            kind=self._trace.SpanKind.PRODUCER,
            attributes={**_attributes("deliver", "send", event, stage), "milepost.attempts": attempts},
        ) as span:
            begun = event is not None and "traceparent" in event.extensions
            yield DeliverySpan(span, self._carrier(), begun=begun)

    @contextmanager
    def process(self, stage: str, channel: str, headers: Mapping[str, str]) -> Iterator["Span"]:
        """Make a span around one call of a stage, within the hop that the HTTP headers name."""
        with self._tracer.start_as_current_span(
            f"process {channel}",
            context=self._context(headers),
            kind=self._trace.SpanKind.CONSUMER,
            attributes={**_attributes("process", "process", None, stage), "messaging.destination.name": channel},
        ) as span:
            yield span

    def took(self, event: Event) -> None:
        """Set which event the current span is about, with a link to the span that made the event."""
        span = self._trace.get_current_span()
        span.set_attributes(_attributes("process", "process", event))
        created = self._trace.get_current_span(self._context(event.extensions)).get_span_context()
        if created.is_valid:
            span.add_link(created)

    def returned(self, status: int) -> None:
        """Set the HTTP status of the current call's answer. A 4xx is the event's fault, and no error of the span."""
        span = self._trace.get_current_span()
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(self._trace.StatusCode.ERROR)

    def _context(self, carrier: Mapping[str, Any]) -> "Context":
        """Return the context in a carrier; an empty one, not the current one, if it has none."""
        from opentelemetry.context import Context

        found = {name: str(carrier[name]) for name in EXTENSIONS if name in carrier}
        return self._propagator.extract(found, Context())

    def _carrier(self) -> dict[str, str]:
        carrier: MutableMapping[str, str] = {}
        self._propagator.inject(carrier)
        return dict(carrier)


def _read(text: bytes) -> Event | None:
    try:
        return Event.from_json(text)
    except EventError:  # an entry that is no event
        return None


def _attributes(name: str, kind: str, event: Event | None, stage: str | None = None) -> dict[str, Any]:
    attributes = {"messaging.system": "redis", "messaging.operation.name": name, "messaging.operation.type": kind}
    if stage:
        attributes["messaging.consumer.group.name"] = stage
    if event:
        attributes |= {
            "messaging.destination.name": event.type,
            "messaging.message.id": event.id,
            "cloudevents.event_id": event.id,
            "cloudevents.event_source": event.source,
            "cloudevents.event_spec_version": "1.0",
            "cloudevents.event_type": event.type,
        }
    return attributes
