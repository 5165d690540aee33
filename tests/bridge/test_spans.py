"""One trace from the gateway through every stage, all in this process, with the SDK's in-memory exporter."""

from collections.abc import Callable, Iterator

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.requests import Request

from functions.payloads import CalculatedDistance, Submission
from gateway.app import create_app
from gateway.settings import GatewaySettings
from milepost import Event, Payload, Unavailable, stage
from milepost.events.event import MAX_EVENT
from milepost.observe import traces
from tests.bridge.rig import Delivery, Rig, Script, eventually, status

PLACE = {"email": "ada@example.org", "lat": 1.0, "long": 2.0}
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans:
    """The finished spans."""

    def __init__(self, exporter: InMemorySpanExporter, provider: TracerProvider, tracer: traces.Tracer) -> None:
        self._exporter = exporter
        self.provider = provider
        self.tracer = tracer

    @property
    def names(self) -> list[str]:
        return sorted(span.name for span in self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = traces.Tracer(provider)
    monkeypatch.setattr(traces, "tracer", lambda *_, **__: tracer)
    yield Spans(exporter, provider, tracer)
    provider.shutdown()


def served(function: Callable[..., object]) -> Script:
    """A stage of Milepost, behind the HTTP server of the rig."""
    main = stage(function, inline=True)

    async def answer(delivery: Delivery) -> bytes:
        raw = [(name.encode(), value.encode()) for name, value in delivery.headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw}
        body = delivery.event.to_json().encode()

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": body, "more_body": False}

        response = await main(Request(scope, receive))
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        return status(response.status_code, bytes(response.body), **headers)

    return answer


def parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def own(span: ReadableSpan) -> int:
    return int(span.get_span_context().span_id)


def trace_ids(*spans: ReadableSpan) -> set[int]:
    return {span.get_span_context().trace_id for span in spans}


async def test_one_trace_from_the_form_through_every_stage(rig: Rig, spans: Spans) -> None:
    seen: list[bool] = []

    def distance(submission: Submission) -> CalculatedDistance:
        seen.append(get_current_span().get_span_context().is_valid)
        return CalculatedDistance(email=submission.email, distance_from_velocity=submission.lat)

    def store(calculated: CalculatedDistance) -> None:
        seen.append(get_current_span().get_span_context().is_valid)

    await rig.stage("distance", "raw_input", "calculated_distance", served(distance))
    await rig.stage("store", "calculated_distance", None, served(store))
    await rig.bridge()
    transport = httpx.ASGITransport(create_app(GatewaySettings(redis_url=rig.url), rig.journal))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        event_id = (await client.post("/distance", json=PLACE, headers={"traceparent": CALLER})).json()["id"]
    await eventually(lambda: len(spans.names) == 5)
    assert seen == [True, True], "a function's own spans belong to the call"

    (send,) = spans.named("send raw_input")
    assert send.parent
    assert f"00-{send.parent.trace_id:032x}-{send.parent.span_id:016x}-01" == CALLER
    for channel, name in (("raw_input", "distance"), ("calculated_distance", "store")):
        (deliver,) = spans.named(f"deliver {channel}")
        (process,) = spans.named(f"process {channel}")
        assert trace_ids(send, deliver, process) == trace_ids(send)
        assert parent(deliver) == own(send), "within its creation"
        assert parent(process) == own(deliver), "the HTTP header is of the hop"
        assert [link.context.span_id for link in process.links] == [own(send)], "the extension is of the creation"
        assert (deliver.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
        for span in (deliver, process):
            assert span.attributes
            assert (
                span.attributes.items()
                >= {
                    "messaging.system": "redis",
                    "messaging.destination.name": channel,
                    "messaging.message.id": event_id,
                    "messaging.consumer.group.name": name,
                    "cloudevents.event_id": event_id,
                    "cloudevents.event_type": channel,
                    "cloudevents.event_spec_version": "1.0",
                }.items()
            )
            assert span.status.status_code is StatusCode.UNSET
        assert deliver.attributes
        assert deliver.attributes["milepost.outcome"] == "delivered"
    assert (send.kind, send.attributes and send.attributes["messaging.operation.type"]) == (SpanKind.PRODUCER, "send")


async def test_a_retry_is_another_delivery_in_the_same_trace(rig: Rig, spans: Spans) -> None:
    tries = []

    def distance(submission: Submission) -> CalculatedDistance:
        tries.append(submission)
        if len(tries) == 1:
            raise Unavailable("not yet")
        return CalculatedDistance(email=submission.email, distance_from_velocity=1)

    await rig.stage("distance", "raw_input", "calculated_distance", served(distance))
    await rig.bridge()
    await rig.publish("raw_input", "1", PLACE)
    await eventually(lambda: len(spans.names) == 4)
    failed, delivered = spans.named("deliver raw_input")
    assert failed.attributes
    assert failed.status.status_code is StatusCode.ERROR
    assert (
        failed.attributes.items()
        >= {
            "milepost.outcome": "routedown",
            "http.response.status_code": 503,
            "error.type": "503",
        }.items()
    )
    assert delivered.status.status_code is StatusCode.UNSET
    refused, processed = spans.named("process raw_input")
    assert (parent(refused), parent(processed)) == (own(failed), own(delivered))
    assert refused.status.status_code is StatusCode.ERROR


async def test_event_without_a_trace_gets_one_at_its_first_delivery(rig: Rig, spans: Spans) -> None:
    heard = []

    class First(Payload, channel="first"):
        pass

    class Second(Payload, channel="second"):
        pass

    def one(_: First) -> Second:
        return Second()

    def two(_: Second) -> None:
        heard.append(1)

    one.__annotations__ |= {"_": First, "return": Second}
    two.__annotations__ |= {"_": Second, "return": None}
    await rig.stage("one", "first", "second", served(one))
    await rig.stage("two", "second", None, served(two))
    await rig.bridge()
    await rig.redis.publish("first", "{}")
    await eventually(lambda: len(spans.names) == 4)
    every = [span for name in spans.names for span in spans.named(name)]
    assert len(trace_ids(*every)) == 1
    (begun,) = spans.named("deliver first")
    assert begun.parent is None
    assert parent(spans.named("deliver second")[0]) == own(begun)
    assert [link.context.span_id for link in spans.named("process second")[0].links] == [own(begun)]


@pytest.mark.parametrize("sent", [{}, {"traceparent": CALLER}], ids=["none", "another trace"])
def test_event_made_within_another_span_is_in_its_trace_unless_the_caller_has_one(
    spans: Spans, sent: dict[str, str]
) -> None:
    with (
        spans.provider.get_tracer("else").start_as_current_span("else"),
        spans.tracer.send(Event(id="1", source="/s", type="in", extensions=sent)),
    ):
        pass
    (outer,), (send,) = spans.named("else"), spans.named("send in")
    assert send.parent
    assert (parent(send) == own(outer)) is not bool(sent)
    assert f"{send.parent.trace_id:032x}" in (CALLER if sent else f"{outer.get_span_context().trace_id:032x}")


def test_a_reply_that_has_no_room_for_a_trace_goes_without(spans: Spans) -> None:
    full = Event(id="1", source="/s", type="out", data="x" * (MAX_EVENT - 130))
    assert len(full.to_json()) > MAX_EVENT - 60
    with spans.tracer.deliver("stage", Event(id="1", source="/s", type="in").to_json().encode(), 0) as delivery:
        assert delivery.handed_on(full) == full
        assert delivery.handed_on(Event(id="1", source="/s", type="out")).extensions == delivery.headers


async def test_events_of_a_route_with_a_batch_are_delivered_alone_each_in_a_span_of_its_own(
    rig: Rig, spans: Spans
) -> None:
    stage = await rig.stage("one", "first")
    ids = [str(number) for number in range(8)]
    await rig.publish_all("first", ids)
    await rig.bridge({"batch": 8})
    await eventually(lambda: rig.settled(stage))
    assert (stage.batches, stage.count) == ([], dict.fromkeys(ids, 1))
    assert len(spans.named("deliver first")) == 8


async def test_without_a_tracer_nothing_is_sent_along(rig: Rig) -> None:
    headers: list[dict[str, str]] = []

    def note(delivery: Delivery) -> bytes:
        headers.append(dict(delivery.headers))
        return status(204)

    stage = await rig.stage("one", "first", None, note)
    await rig.bridge()
    await rig.publish("first", "1")
    await eventually(lambda: stage.count["1"] == 1)
    assert "traceparent" not in headers[0]
    assert not TraceContextTextMapPropagator().extract(headers[0])
