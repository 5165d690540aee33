"""Traces, by OpenTelemetry: one from the form through every stage, where it is asked for.

`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_TRACES_EXPORTER` (otlp, console or none)
asks for it, and the extra `otel` brings the SDK, which is imported then and not before; other variables of
OpenTelemetry hold too. Names and attributes are those of its semantic conventions for messaging and for CloudEvents.

The CloudEvents extension `traceparent` is the context in which a submission was made, and stays so on its whole way;
the HTTP header `traceparent` is that of one hop (CloudEvents, Distributed Tracing extension).
"""

import functools
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from milepost.errors import ConfigurationError, EventError, TooLarge
from milepost.events.event import Event
from milepost.observe.logs import Fields

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

log = logging.getLogger("milepost.observe.traces")

EXTENSIONS = ("traceparent", "tracestate")
"""Extensions of an event that say where it was made, and that a stage's answer takes over."""

FLUSH_WITHIN = 1.0
"""Seconds that a function's stop waits for its spans to get out."""

ASKING = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")


@functools.cache
def tracer(component: str, *, shared: bool = False) -> "Tracer | None":
    """The tracer of this process, its `service.name` that of the component; None unless traces are asked for, or
    where the SDK is not installed, which is logged. `shared`: what else makes spans in this process has them exported
    the same way; FastAPI does, of every request, so the gateway's is not.

    Raises ConfigurationError for an exporter that there is not.
    """
    asked = any(os.environ.get(name) for name in ASKING)
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if not asked or exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if exporter not in {"otlp", "console"}:
        raise ConfigurationError("OTEL_TRACES_EXPORTER: must be otlp, console or none")
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
    if isinstance(present, TracerProvider):  # somebody else's set-up, which has its exporter
        return present
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": component}
    provider = TracerProvider(resource=Resource.create({"service.namespace": "milepost", **named}))
    # A process that is killed exports nothing more, so little waits: a second, and not the SDK's five.
    delay = None if os.environ.get("OTEL_BSP_SCHEDULE_DELAY") else 1000
    provider.add_span_processor(BatchSpanProcessor(_exporter(exporter), schedule_delay_millis=delay))
    if shared:
        trace.set_tracer_provider(provider)
        _flush_at_sigterm(provider)
    return provider


def _flush_at_sigterm(provider: "TracerProvider") -> None:
    """On SIGTERM export the waiting spans first, for at most FLUSH_WITHIN seconds, then pass the signal to the server.
    uvicorn ends by the signal itself, so no exit handler runs.
    """
    stop = signal.getsignal(signal.SIGTERM)
    if not callable(stop) or threading.current_thread() is not threading.main_thread():
        return

    def flush_first(number: int, frame: FrameType | None) -> None:
        # In threads: a signal's handler must not wait, and an exporter takes no time limit.
        flushing = threading.Thread(target=provider.force_flush, daemon=True)
        flushing.start()

        def stop_then() -> None:
            flushing.join(FLUSH_WITHIN)
            stop(number, frame)

        threading.Thread(target=stop_then, daemon=True).start()

    signal.signal(signal.SIGTERM, flush_first)


def _exporter(name: str) -> "SpanExporter":
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(formatter=lambda span: f"{span.to_json(indent=None)}\n")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


class DeliverySpan:
    """One POST of an event to its stage: what to send along, and where to note what came of it."""

    def __init__(self, span: "Span", headers: Mapping[str, str], *, begun: bool) -> None:
        self.headers = headers
        """The context of this hop, as HTTP headers."""
        self._span = span
        self._begun = begun

    def answered(self, outcome: str, status: int | None = None) -> None:
        """Note the verdict; `delivered` is the only one that is no error."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("milepost.outcome", outcome)
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if outcome != "delivered":
            self._span.set_attribute("error.type", str(status or outcome))
            self._span.set_status(StatusCode.ERROR)

    def handed_on(self, reply: Event) -> Event:
        """The reply. Where no trace was begun before, this delivery begins it: what follows belongs to it."""
        if self._begun or "traceparent" in reply.extensions:
            return reply
        traced = replace(reply, extensions={**reply.extensions, **self.headers})
        try:
            traced.to_json()
        except TooLarge:  # by this alone
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
        """Around the publishing of a new event: it, with the context of its creation. What the event has as such was
        sent by its maker's caller, and is the parent, unless somebody else's instrumentation made a span within it.
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
        """Around one POST of a journaled event, after so many failed attempts. In the trace of its creation."""
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
        """Around one call of a stage: within the hop that the HTTP headers tell of."""
        with self._tracer.start_as_current_span(
            f"process {channel}",
            context=self._context(headers),
            kind=self._trace.SpanKind.CONSUMER,
            attributes={**_attributes("process", "process", None, stage), "messaging.destination.name": channel},
        ) as span:
            yield span

    def took(self, event: Event) -> None:
        """Say which event the current call is about, with a link to its creation."""
        span = self._trace.get_current_span()
        span.set_attributes(_attributes("process", "process", event))
        created = self._trace.get_current_span(self._context(event.extensions)).get_span_context()
        if created.is_valid:
            span.add_link(created)

    def returned(self, status: int) -> None:
        """Note what the current call answers. What is at fault with the event is no error of the stage."""
        span = self._trace.get_current_span()
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(self._trace.StatusCode.ERROR)

    def _context(self, carrier: Mapping[str, Any]) -> "Context":
        """The context that a carrier tells of; an empty one, not the current one, if it tells of none."""
        from opentelemetry.context import Context

        told = {name: str(carrier[name]) for name in EXTENSIONS if name in carrier}
        return self._propagator.extract(told, Context())

    def _carrier(self) -> dict[str, str]:
        carrier: MutableMapping[str, str] = {}
        self._propagator.inject(carrier)
        return dict(carrier)


def _read(text: bytes) -> Event | None:
    try:
        return Event.from_json(text)
    except EventError:  # a foreign entry that no stage can take
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
