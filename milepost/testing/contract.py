"""Test the rules that hold for every stage: inherit StageContract and name the stage.

    class TestGeocode(StageContract):
        stage, consumes, emits = "geocode", "raw_input", "place"
        data = example(Submission)
        invalid: ClassVar = [({"lat": 91}, "lat")]

The stage runs under functions-framework, as in its image. The tests call it over HTTP and read its answers with the
CloudEvents SDK, which shares no code with Milepost.
"""

import gzip
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar
from uuid import uuid4

import httpx
import pytest
from cloudevents.http import CloudEvent, from_dict

from milepost import Payload, stage_values
from milepost.events.payload import fields_of
from milepost.graph import several
from milepost.testing.posting import BATCH, STRUCTURED, answered, batched, binary, ce_headers, refused, send, structured
from milepost.testing.servers import WITHIN, Function

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MEGABYTE = 1_000_000


class StageContract:
    """Inherit as `class TestStore(StageContract)`; override `env` and `prepare` if the stage needs something."""

    stage: ClassVar[str]
    consumes: ClassVar[str]
    emits: ClassVar[str | Sequence[str] | None]
    """Several if it answers on one of them; None if it answers 204, without an event."""
    data: ClassVar[Any]
    """A payload that the stage accepts: a Payload, or its JSON."""
    invalid: ClassVar[Sequence[tuple[Any, str]]]
    """JSON that it refuses, each with the field at fault, or `data` if the whole is."""
    answers: ClassVar[Mapping[str, Any]] = {}
    """For a stage of several channels: for each of them a payload that it answers there."""
    split: ClassVar[bool] = False
    """Whether it may give several answers to an event; to `data` it gives one at least."""

    @pytest.fixture(scope="class")
    @classmethod
    def env(cls) -> dict[str, str]:
        return {}

    @pytest.fixture(scope="class")
    @classmethod
    def function(cls, tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Iterator[Function]:
        with Function(tmp_path_factory.mktemp(cls.stage), cls.stage, env=env) as function:
            yield function

    @pytest.fixture
    def url(self, function: Function) -> str:
        return function.url

    def prepare(self, event: dict[str, Any], env: dict[str, str]) -> None:
        """Prepare the stage's surroundings for this event."""

    @pytest.fixture
    def event(self, env: dict[str, str]) -> dict[str, Any]:
        event = self.make()
        self.prepare(event, env)
        return event

    def make(self, **changes: Any) -> dict[str, Any]:
        event = {
            "specversion": "1.0",
            "id": str(uuid4()),
            "source": "/tests",
            "type": self.consumes,
            "time": "2026-05-04T03:02:01.123456Z",
            "data": self.data,
        } | changes
        if isinstance(event["data"], Payload):
            event["data"] = event["data"].model_dump(mode="json")
        return {name: value for name, value in event.items() if value is not None}

    def reply(self, response: httpx.Response) -> CloudEvent | None:
        """Return the event in the response, of several the first. For a stage that emits nothing, check for a bare 204
        and return None.
        """
        if self.split:
            return self.parts(response)[0]
        if several(self.emits):
            return answered(response)
        assert response.status_code == 204, response.text
        assert response.content == b""
        assert ce_headers(response) == {}
        return None

    def parts(self, response: httpx.Response) -> list[CloudEvent]:
        """Return the events in the response of a stage that splits."""
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == BATCH
        parts = [from_dict(event) for event in response.json()]
        whole = parts[0]["id"].removesuffix("/0")
        assert [part["id"] for part in parts] == [f"{whole}/{place}" for place in range(len(parts))]
        return parts

    def id_of(self, event: dict[str, Any]) -> str:
        """Return the id of the reply to this event, of several the first."""
        return f"{event['id']}/0" if self.split else str(event["id"])

    # Answers

    @pytest.mark.parametrize("mode", [binary, structured])
    def test_answers_the_next_event(self, url: str, event: dict[str, Any], mode: Any) -> None:
        reply = self.reply(send(url, event, mode))
        if reply is None:
            return
        assert reply["id"] == self.id_of(event)
        assert reply["source"] == f"/milepost/{self.stage}"
        assert reply["type"] in several(self.emits)
        assert reply["specversion"] == "1.0"
        assert reply["time"] == event["time"]
        assert reply["datacontenttype"] == "application/json"

    def test_each_channel_of_several_gets_its_answer(self, url: str, env: dict[str, str]) -> None:
        for channel, data in self.answers.items():
            event = self.make(data=data)
            self.prepare(event, env)
            for mode in (binary, structured):
                reply = self.reply(send(url, event, mode))
                assert reply is not None
                assert reply["type"] == channel
        if len(several(self.emits)) > 1 and (unnamed := sorted({*several(self.emits)} - set(self.answers))):
            pytest.skip(f"{self.stage}: `answers` names no payload that is answered on {' or '.join(unnamed)}")

    @pytest.mark.parametrize("time", ["2026-05-04T03:02:01.123456Z", None])
    def test_a_redelivery_gets_the_same_answer(self, url: str, time: str | None, env: dict[str, str]) -> None:
        event = self.make(time=time)
        self.prepare(event, env)
        for mode in (binary, structured):
            first, second = send(url, event, mode), send(url, event, mode)
            self.reply(first)
            assert first.content == second.content
            assert ce_headers(first) == ce_headers(second)

    def test_answer_is_in_the_mode_of_the_event(self, url: str, event: dict[str, Any]) -> None:
        """An event in structured mode has all attributes in its body, and none in headers."""
        if several(self.emits) and not self.split:
            assert ce_headers(send(url, event, binary)).keys() >= {"ce-id", "ce-source", "ce-type"}
            assert ce_headers(send(url, event, structured)) == {"content-type": STRUCTURED}

    @pytest.mark.parametrize("mode", [binary, structured])
    def test_next_event_has_the_trace_context(self, url: str, event: dict[str, Any], mode: Any) -> None:
        reply = self.reply(send(url, event | {"traceparent": TRACEPARENT, "tracestate": "a=b"}, mode))
        if reply is not None:
            assert reply["traceparent"] == TRACEPARENT
            assert reply["tracestate"] == "a=b"

    @pytest.mark.parametrize("mode", [binary, structured])
    def test_next_event_has_no_other_attributes(self, url: str, event: dict[str, Any], mode: Any) -> None:
        response = send(url, event | {"journalid": "1-0", "subject": "x", "mine": "y"}, mode)
        reply = self.reply(response)
        known = {"specversion", "id", "source", "type", "time", "datacontenttype"}
        assert reply is None or set(reply.get_attributes()) == known
        assert not {"ce-journalid", "ce-subject", "ce-mine"} & set(response.headers)

    def test_ids_of_any_characters_are_kept(self, url: str, env: dict[str, str]) -> None:
        unique = str(uuid4())
        event = self.make(id=f'{unique} "naïve" 100% 東 $id.x')
        self.prepare(event, env)
        reply = self.reply(send(url, event, structured))
        if reply is None:
            return
        assert reply["id"] == self.id_of(event)
        if not self.split:
            # HTTP Protocol Binding 3.1.3.2 encodes quotes, percent signs and all but printable ASCII.
            encoded = f"{unique}%20%22na%C3%AFve%22%20100%25%20%E6%9D%B1%20$id.x"
            assert send(url, {**event, "id": encoded}, binary).headers["ce-id"] == encoded

    def test_batch_is_answered_in_its_order(self, url: str, env: dict[str, str]) -> None:
        events = [self.make() for _ in range(3)]
        for event in events:
            self.prepare(event, env)
        response = send(url, events, batched)
        alone = [self.reply(send(url, event, structured)) for event in events]
        if not several(self.emits):
            assert (response.status_code, response.content) == (204, b"")
            return
        if self.split:
            assert response.status_code == 207, response.text
            assert [from_dict(item["events"][0]) for item in response.json()] == alone
            return
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == BATCH
        assert [from_dict(reply) for reply in response.json()] == alone

    def test_get_describes_the_stage(self, url: str) -> None:
        response = httpx.get(url, timeout=WITHIN)
        assert response.status_code == 200
        description = response.json()
        assert description["name"] == self.stage
        assert description["consumes"] == self.consumes
        assert several(description["emits"]) == several(self.emits)
        assert description.get("split", False) == self.split
        assert set(description["schemas"]) == {self.consumes, *several(self.emits)}
        assert description["summary"]
        assert httpx.head(url, timeout=WITHIN).status_code == 200

    def test_other_methods_get_405(self, url: str) -> None:
        refused(httpx.put(url, content=b"{}", timeout=WITHIN), 405)

    # Answers 400

    @pytest.mark.parametrize(
        ("headers", "body"),
        [
            ({}, b""),
            ({"content-type": "application/json"}, b'{"email": "a@b.co"}'),
            ({"content-type": "text/plain"}, b"hello"),
            ({"content-type": "application/cloudevents+json"}, b"{"),
            ({"content-type": "application/cloudevents+json"}, b"\xff\xfe"),
            ({"content-type": "application/cloudevents+json"}, b"null"),
            ({"content-type": "application/cloudevents+json"}, b"[" * 100_000),
            ({"content-type": "application/cloudevents-batch+json"}, b"[]"),
            ({"content-type": "application/cloudevents+json"}, b'{"specversion":"1.0","id":"1","source":"/s"}'),
            (
                {"content-type": "application/cloudevents+json"},
                b'{"specversion":"1.0","id":"","source":"/s","type":"t"}',
            ),
        ],
    )
    def test_invalid_cloudevents_get_400(self, url: str, headers: dict[str, str], body: bytes) -> None:
        refused(httpx.post(url, headers=headers, content=body, timeout=WITHIN), 400)

    @pytest.mark.parametrize("body", [b"{", b"NaN", b"\xff", b'"\xc3"', b"{'a': 1}", b"[" * 100_000])
    def test_broken_data_gets_400(self, url: str, body: bytes) -> None:
        headers, _ = binary(self.make())
        refused(httpx.post(url, headers=headers, content=body, timeout=WITHIN), 400)

    @pytest.mark.parametrize(
        "changes",
        [
            {"specversion": "0.3"},
            {"specversion": 1},
            {"source": "not a reference"},
            {"id": "x" * 300},
            {"id": 7},
            {"id": "a\nce-evil: 1"},
            {"time": "yesterday"},
            {"time": "0001-01-01T00:00:00+14:00"},
            {"datacontenttype": "text/xml"},
            {"Extension": "x"},
            {"nested": {"a": 1}},
            {"traceparent": "a\r\nset-cookie: b"},
        ],
    )
    def test_broken_attributes_get_400(self, url: str, changes: dict[str, Any]) -> None:
        refused(send(url, self.make(**changes), structured), 400)

    def test_encoded_control_characters_in_headers_get_400(self, url: str) -> None:
        for name in ("ce-id", "ce-traceparent", "ce-source", "ce-subject"):
            headers, body = binary(self.make())
            headers[name] = "a%0D%0Aset-cookie:%20b"
            response = httpx.post(url, headers=headers, content=body, timeout=WITHIN)
            refused(response, 400)
            assert "set-cookie" not in response.headers

    def test_invalid_event_in_a_batch_gets_400_with_its_place(self, url: str) -> None:
        problem = refused(send(url, [self.make(), self.make(source="not a reference")], batched), 400)
        assert problem["detail"].startswith("event 1: source")

    # Answers 413, 415 and 422

    def test_body_over_a_megabyte_gets_413(self, url: str) -> None:
        headers, _ = binary(self.make())
        refused(httpx.post(url, headers=headers, content=b" " * (MEGABYTE + 1), timeout=WITHIN), 413)
        chunks = iter([b" " * 65536] * 20)
        refused(httpx.post(url, headers=headers, content=chunks, timeout=WITHIN), 413)

    def test_compressed_body_gets_415(self, url: str) -> None:
        headers, body = binary(self.make())
        refused(
            httpx.post(
                url, headers=headers | {"content-encoding": "gzip"}, content=gzip.compress(body), timeout=WITHIN
            ),
            415,
        )

    def test_event_of_another_type_gets_422(self, url: str) -> None:
        problem = refused(send(url, self.make(type="some.other")), 422)
        assert self.consumes in problem["detail"]

    def test_invalid_payload_gets_422_that_names_the_field(self, url: str) -> None:
        for data, field in self.invalid:
            for mode in (binary, structured):
                problem = refused(send(url, self.make(data=data), mode), 422)
                assert field in {error["field"] for error in problem["errors"]}, (data, problem)
                assert all(error["fault"] for error in problem["errors"])

    def test_each_event_of_a_batch_is_answered_by_itself(self, url: str, env: dict[str, str]) -> None:
        events = [self.make(), self.make()]
        for event in events:
            self.prepare(event, env)
        data, field = self.invalid[0]
        response = send(url, [events[0], self.make(data=data), events[1]], batched)
        assert response.status_code == 207, response.text
        first, problem, last = response.json()
        for event, item in zip(events, (first, last), strict=True):
            alone = self.reply(send(url, event))
            assert item["id"] == event["id"]
            if alone is None:
                assert item == {"id": event["id"], "status": 204}
            else:
                answer = item["events"][0] if self.split else item["event"]
                assert (item["status"], from_dict(answer)) == (200, alone)
        assert (problem["status"], problem["type"]) == (422, "about:blank")
        assert field in {error["field"] for error in problem["errors"]}

    def test_event_without_data_gets_422(self, url: str) -> None:
        event = self.make()
        del event["data"]
        refused(send(url, event, structured), 422)
        headers, _ = binary(self.make())
        refused(httpx.post(url, headers=headers, timeout=WITHIN), 422)

    def test_deeply_nested_data_is_refused(self, url: str, event: dict[str, Any]) -> None:
        deep = '{"a":' * 50_000 + "1" + "}" * 50_000
        headers, _ = binary(self.make())
        assert httpx.post(url, headers=headers, content=deep, timeout=WITHIN).status_code in {400, 422}
        self.reply(send(url, event))

    def test_values_agree(self) -> None:
        entry = next(entry for entry in stage_values.read(Function.project) if entry.name == self.stage)
        assert (entry.consumes, set(entry.emits)) == (self.consumes, set(several(self.emits)))
        assert entry.split == self.split

    def test_order_is_by_a_field_of_the_payload(self, url: str) -> None:
        """Events whose data has no such field would be in no order."""
        entry = next(entry for entry in stage_values.read(Function.project) if entry.name == self.stage)
        if isinstance(entry.order, str):
            fields = fields_of(httpx.get(url, timeout=WITHIN).json()["schemas"][self.consumes])
            only = ", ".join(fields) or "none"
            assert entry.order in fields, (
                f"order: {entry.order}: the data on {self.consumes} has no such field, only {only}"
            )
