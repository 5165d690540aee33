"""`stage` on its own, called as functions-framework calls it. tests/contract has the stages over HTTP."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Optional

import pytest
from cloudevents.abstract import CloudEvent as AnyEvent
from cloudevents.http import CloudEvent
from pydantic import field_serializer, field_validator, model_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from milepost import Defer, Event, Payload, Reject, RootPayload, Unavailable, stage
from milepost.errors import ConfigurationError, JournalUnavailable
from tests.servers import WITHIN

CE = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/s", "ce-type": "asked", "content-type": "application/json"}


class Asked(Payload, channel="asked"):
    number: int


class Answered(Payload, channel="answered"):
    number: int


class Bare(RootPayload[str], channel="bare"):
    pass


async def deliver(main: Any, body: Any = None, method: str = "POST", **headers: str) -> Response:
    """Hand `main` a request as ASGI would."""
    content = json.dumps({"number": 1} if body is None else body).encode()
    names = CE | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http",
        "method": method,
        "path": "/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in names.items()],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    response = await main(Request(scope, receive))
    assert isinstance(response, Response)
    return response


def doubled(asked: Asked) -> Answered:
    """Twice the number."""
    return Answered(number=2 * asked.number)


async def test_the_first_wake_up_takes_an_example_the_way_of_an_event_without_the_function() -> None:
    steps: list[str] = []

    class Read(Payload, channel="read"):
        number: int

        @model_validator(mode="after")
        def note(self) -> "Read":
            steps.append("read")
            return self

    class Written(Payload, channel="written"):
        number: int

        @field_serializer("number")
        def note(self, number: int) -> int:
            steps.append("written")
            return number

    def one(read: Read) -> Written:
        steps.append("called")
        return Written(number=read.number)

    def several(read: Read) -> list[Written]:
        return [one(read)]

    for function in (one, several):
        main = stage(function, inline=True)
        for _ in range(2):
            assert (await deliver(main, method="GET")).status_code == 200
        assert steps == ["read", "read", "written"]  # the example is made, and then read from an event
        assert (await deliver(main, ce_type="read")).status_code == 200
        assert "called" in steps
        steps.clear()


async def test_a_wake_up_without_an_example_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(Payload, channel="asked"):
        number: int

        @field_validator("number")
        @classmethod
        def refuse(cls, number: int) -> int:
            raise KeyError(number)

    def odd(odd: Odd) -> Answered:
        return Answered(number=odd.number)

    response = await deliver(stage(odd), method="GET")
    assert response.status_code == 200
    assert not caplog.records


async def test_a_sync_function_answers() -> None:
    response = await deliver(stage(doubled))
    assert response.status_code == 200
    assert json.loads(bytes(response.body)) == {"number": 2}
    assert response.headers["ce-type"] == "answered"
    assert response.headers["ce-source"] == "/milepost/doubled"
    assert response.headers["ce-id"] == "7"


async def test_an_async_function_answers() -> None:
    async def doubled(asked: Asked) -> Answered:
        return Answered(number=2 * asked.number)

    assert json.loads(bytes((await deliver(stage(doubled))).body)) == {"number": 2}


@pytest.mark.parametrize("inline", [True, False])
async def test_sync_function_runs_in_a_thread_unless_inline(*, inline: bool) -> None:
    ran_in = []

    def where(_asked: Asked) -> None:
        ran_in.append(threading.current_thread())

    await deliver(stage(where, inline=inline))
    assert (ran_in == [threading.current_thread()]) is inline


async def test_call_that_never_returns_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost.function.threads.MOST", 1)
    monkeypatch.setattr("milepost.function.threads.COUNTED_FOR", 0.01)
    returned = threading.Event()

    def hanging(asked: Asked) -> Answered:
        if asked.number == 1:
            returned.wait()
        return doubled(asked)

    main = stage(hanging)
    hung = asyncio.create_task(deliver(main, {"number": 1}))
    for number in (2, 3):
        async with asyncio.timeout(WITHIN):
            assert (await deliver(main, {"number": number})).status_code == 200
    assert not hung.done()
    returned.set()
    assert (await hung).status_code == 200


async def test_call_that_cannot_begin_in_time_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost.function.threads.MOST", 1)
    monkeypatch.setattr("milepost.function.threads.COUNTED_FOR", WITHIN)
    monkeypatch.setenv("REQUEST_TIMEOUT", "0.1")
    began, returned = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def waiting(asked: Asked) -> Answered:
        loop.call_soon_threadsafe(began.set)
        returned.wait()
        return doubled(asked)

    main = stage(waiting)
    first = asyncio.create_task(deliver(main))
    async with asyncio.timeout(WITHIN):
        await began.wait()
        refused = await deliver(main)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert b"all threads were in use" in refused.body
    returned.set()
    assert (await first).status_code == 200


async def test_a_function_that_emits_nothing_answers_204_without_a_body() -> None:
    def watch(_asked: Asked) -> None:
        pass

    response = await deliver(stage(watch))
    assert response.status_code == 204
    assert response.body == b""


class Approved(Payload, channel="approved"):
    number: int


class Urgent(Approved):
    hours: int = 2


class Reviewed(Approved, channel="reviewed"):
    pass


class Declined(RootPayload[str], channel="declined"):
    pass


def decide(asked: Asked) -> Approved | Declined | None:
    """Approve, decline, or say nothing."""
    results: list[Any] = [Approved(number=0), Urgent(number=1), Declined("no"), None, {"number": 4}]
    return [*results, Reviewed(number=5), Answered(number=6), [Approved(number=7)]][asked.number]  # type: ignore[no-any-return]


async def test_class_of_the_return_value_chooses_the_channel() -> None:
    main = stage(decide)
    responses = [await deliver(main, {"number": number}) for number in range(4)]
    assert [response.headers.get("ce-type") for response in responses] == ["approved", "approved", "declined", None]
    assert [response.status_code for response in responses] == [200, 200, 200, 204]
    assert [json.loads(bytes(one.body)) for one in responses[:3]] == [{"number": 0}, {"number": 1, "hours": 2}, "no"]
    for number, returned in (
        (4, "dict"),
        (5, r"Reviewed (channel reviewed)"),
        (6, "Answered (channel answered)"),
        (7, "list"),
    ):
        response = await deliver(main, {"number": number})
        told = f"decide returned {returned}, not its Approved or Declined or None"
        assert (response.status_code, json.loads(bytes(response.body))["detail"]) == (500, told)


async def test_description_of_a_stage_of_several_channels_lists_them() -> None:
    description = json.loads(bytes((await deliver(stage(decide), method="GET")).body))
    assert description["emits"] == ["approved", "declined"]
    assert set(description["schemas"]) == {"asked", "approved", "declined"}

    def perhaps(_asked: Asked) -> Optional[Approved]:  # noqa: UP045 - as some write it
        return None

    description = json.loads(bytes((await deliver(stage(perhaps), method="GET")).body))
    assert (description["emits"], (await deliver(stage(perhaps))).status_code) == ("approved", 204)


async def test_none_where_the_annotation_does_not_say_so_gets_500() -> None:
    def never(_asked: Asked) -> Approved | Declined:
        return None  # type: ignore[return-value]

    response = await deliver(stage(never))
    assert json.loads(bytes(response.body))["detail"] == "never returned NoneType, not its Approved or Declined"


class Item(Payload, channel="item"):
    number: int


def listed(asked: Asked) -> list[Item]:
    return [Item(number=number) for number in range(asked.number)]


def as_tuple(asked: Asked) -> tuple[Item, ...]:
    return tuple(listed(asked))


def generated(asked: Asked) -> Iterator[Item]:
    yield from listed(asked)


def with_all_types(asked: Asked) -> Generator[Item, None, str]:
    yield from listed(asked)
    return "done"


async def collected(asked: Asked) -> Sequence[Item]:
    return listed(asked)


async def generated_async(asked: Asked) -> AsyncIterator[Item]:
    for item in listed(asked):
        yield item


SEVERAL = [listed, as_tuple, generated, with_all_types, collected, generated_async]


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("function", SEVERAL)
async def test_several_answers_are_a_batch_with_an_id_for_each(function: Any, *, inline: bool) -> None:
    main = stage(function, inline=inline)
    kept = {"ce_time": "2026-05-04T03:02:01Z", "ce_traceparent": "00-1", "ce_partitionkey": "ada", "ce_other": "x"}
    response = await deliver(main, {"number": 3}, **kept)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/cloudevents-batch+json")
    events = json.loads(bytes(response.body))
    assert [(event["id"], event["type"], event["data"]["number"]) for event in events] == [
        (f"7/{number}", "item", number) for number in range(3)
    ]
    for event in events:
        assert (event["time"], event["traceparent"], event["partitionkey"]) == ("2026-05-04T03:02:01Z", "00-1", "ada")
        assert "other" not in event
    again = await deliver(main, {"number": 3}, **kept)
    assert again.body == response.body
    assert (await deliver(main, {"number": 0})).status_code == 204


@pytest.mark.parametrize("function", SEVERAL)
async def test_too_many_answers_are_rejected_with_their_number_and_the_limit(function: Any) -> None:
    assert len(json.loads(bytes((await deliver(stage(function), {"number": 256})).body))) == 256
    response = await deliver(stage(function), {"number": 1000})
    assert response.status_code == 422
    counted = "1000" if function in {listed, as_tuple, collected} else "more than 256"
    detail = json.loads(bytes(response.body))["detail"]
    name = function.__name__.replace("_", "-")
    assert detail == f"{name} gave {counted} answers to one event; the limit is 256"


async def test_endless_iterator_is_closed_after_the_limit() -> None:
    closed: list[bool] = []

    def endless(asked: Asked) -> Iterator[Item]:
        try:
            while True:
                yield Item(number=asked.number)
        finally:
            closed.append(True)

    assert (await deliver(stage(endless))).status_code == 422
    assert closed == [True]


async def test_answers_that_are_too_large_together_are_rejected() -> None:
    class Text(RootPayload[str], channel="text"):
        pass

    def large(asked: Asked) -> list[Text]:
        return [Text("x" * asked.number)] * 4

    assert (await deliver(stage(large), {"number": 249_000})).status_code == 200
    for number, told in ((260_000, "gave 4 answers of 104"), (1_000_000, "gave an answer of more than 1000000 bytes")):
        response = await deliver(stage(large), {"number": number})
        assert response.status_code == 422
        assert told in json.loads(bytes(response.body))["detail"]


async def test_several_answers_may_be_of_several_channels() -> None:
    def judge(asked: Asked) -> list[Approved | Declined]:
        return [Approved(number=1), Declined("no")][: asked.number]

    events = json.loads(bytes((await deliver(stage(judge), {"number": 2})).body))
    assert [(event["id"], event["type"]) for event in events] == [("7/0", "approved"), ("7/1", "declined")]
    described = json.loads(bytes((await deliver(stage(judge), method="GET")).body))
    assert (described["emits"], described["split"]) == (["approved", "declined"], True)


async def test_id_that_leaves_no_room_for_those_of_the_answers_is_rejected() -> None:
    response = await deliver(stage(listed), {"number": 1}, ce_id="x" * 254)
    assert response.status_code == 200
    response = await deliver(stage(listed), {"number": 1}, ce_id="x" * 255)
    assert response.status_code == 422
    assert "id: 256 characters at most" in json.loads(bytes(response.body))["detail"]


@pytest.mark.parametrize("returned", [Item(number=1), "text", {"a": 1}, None, 7, [Answered(number=1)], [None]])
async def test_return_value_that_is_not_several_payloads_gets_500(returned: Any) -> None:
    def wrong(_asked: Asked) -> list[Item]:
        return returned  # type: ignore[no-any-return]

    assert (await deliver(stage(wrong))).status_code == 500


async def test_exception_in_a_generator_is_the_answer() -> None:
    def fails(_asked: Asked) -> Iterator[Item]:
        yield Item(number=1)
        raise Defer("not yet", retry_after=60)

    assert (await deliver(stage(fails))).status_code == 409


async def test_events_of_a_batch_have_their_answers_in_the_207() -> None:
    events = [
        {"specversion": "1.0", "id": str(number), "source": "/s", "type": "asked", "data": {"number": number}}
        for number in range(3)
    ]
    response = await deliver(stage(listed), events, content_type="application/cloudevents-batch+json")
    assert response.status_code == 207
    items = json.loads(bytes(response.body))
    assert [item["status"] for item in items] == [204, 200, 200]
    assert [[event["id"] for event in item.get("events", [])] for item in items] == [[], ["1/0"], ["2/0", "2/1"]]
    nothing = await deliver(stage(listed), events[:1], content_type="application/cloudevents-batch+json")
    assert nothing.status_code == 204


def one_or_several(_asked: Asked) -> Item | list[Item]: ...  # type: ignore[empty-body]
def bare_list(_asked: Asked) -> list: ...  # type: ignore[empty-body,type-arg]
def list_with_none(_asked: Asked) -> list[Item | None]: ...  # type: ignore[empty-body]
def list_of_lists(_asked: Asked) -> list[list[Item]]: ...  # type: ignore[empty-body]
def pair(_asked: Asked) -> tuple[Item, Item]: ...  # type: ignore[empty-body]


def same_channel(_asked: Asked) -> Approved | Urgent: ...  # type: ignore[empty-body]
def no_channel(_asked: Asked) -> Approved | int: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (same_channel, "Approved and Urgent, which both have the channel approved"),
        (no_channel, "int has no channel"),
        (one_or_several, "either one payload or several"),
        (bare_list, "say which payloads"),
        (list_with_none, "none of them can be None"),
        (list_of_lists, "has no channel"),
        (pair, "say which payloads"),
    ],
)
def test_union_whose_classes_do_not_name_a_channel_each_is_refused(function: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        stage(function)


async def test_second_parameter_receives_the_event() -> None:
    def echo(_asked: Asked, event: Event) -> Bare:
        return Bare(f"{event.id} {event.source} {event.extensions['mine']}")

    assert json.loads(bytes((await deliver(stage(echo), ce_mine="x")).body)) == "7 /s x"


async def test_second_parameter_may_be_the_sdks_cloudevent() -> None:
    def echo(_asked: Asked, event: CloudEvent) -> Bare:
        return Bare(f"{event['id']} {event['source']} {event['mine']} {event.get('time')} {event.get_data()}")

    assert json.loads(bytes((await deliver(stage(echo), ce_mine="x")).body)) == "7 /s x None {'number': 1}"


async def test_next_event_has_the_time_of_its_cause_or_none() -> None:
    first = await deliver(stage(doubled), ce_time="2026-05-04T03:02:01Z")
    assert first.headers["ce-time"] == "2026-05-04T03:02:01Z"
    assert "ce-time" not in (await deliver(stage(doubled))).headers


@pytest.mark.parametrize(
    ("raised", "status", "title", "retry_after"),
    [
        (Reject("no"), 422, "Rejected", None),
        (Defer("not yet", retry_after=2.2), 409, "Deferred", "3"),
        (Defer("busy", retry_after=-1), 409, "Deferred", "1"),
        (Unavailable("away"), 503, "Unavailable", "1"),
        (JournalUnavailable("away"), 500, "Internal error", None),
        (RuntimeError("a secret"), 500, "Internal error", None),
        (StopIteration("a secret"), 500, "Internal error", None),
        (SystemExit("a secret"), 500, "Internal error", None),
        (Reject("half a surrogate pair: \ud83d"), 422, "Rejected", None),
        (Unavailable("away", retry_after=float("nan")), 503, "Unavailable", "1"),
        (Defer("not yet", retry_after=float("inf")), 409, "Deferred", "1"),
        (Unavailable("away", retry_after=timedelta(seconds=9)), 503, "Unavailable", "1"),  # type: ignore[arg-type]
        (Unavailable("away", retry_after="9"), 503, "Unavailable", "1"),  # type: ignore[arg-type]
    ],
)
async def test_exceptions_become_problems(
    raised: BaseException, status: int, title: str, retry_after: str | None
) -> None:
    def fails(_asked: Asked) -> Answered:
        raise raised

    response = await asyncio.wait_for(deliver(stage(fails)), WITHIN)
    problem = json.loads(bytes(response.body))
    assert response.status_code == problem["status"] == status
    assert problem["title"] == title
    assert response.headers.get("retry-after") == retry_after
    assert response.headers["content-type"] == "application/problem+json"
    assert b"secret" not in response.body


async def test_return_value_of_another_class_gets_500() -> None:
    def wrong(_asked: Asked) -> Answered:
        return Bare("x")  # type: ignore[return-value]

    assert (await deliver(stage(wrong))).status_code == 500


async def test_return_value_that_is_no_json_gets_a_problem() -> None:
    class Measured(Payload, channel="answered"):
        number: float

    def measured(_asked: Asked) -> Measured:
        return Measured(number=float("nan"))

    response = await deliver(stage(measured))
    assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")


async def test_invalid_payload_gets_422_that_names_the_field() -> None:
    response = await deliver(stage(doubled), {"number": "x"})
    assert response.status_code == 422
    assert [error["field"] for error in json.loads(bytes(response.body))["errors"]] == ["number"]


async def test_get_returns_the_description() -> None:
    description = json.loads(bytes((await deliver(stage(doubled), method="GET")).body))
    assert description["summary"] == "Twice the number."
    assert (description["consumes"], description["emits"]) == ("asked", "answered")
    assert (await deliver(stage(doubled), method="DELETE")).status_code == 405


def test_the_function_stays_callable_and_main_is_a_function() -> None:
    main = stage(doubled)
    assert doubled(Asked(number=4)) == Answered(number=8)
    assert type(main).__name__ == "function"  # functions-framework takes no other
    assert Starlette(routes=[Route("/", main, methods=["POST"])])


def test_the_name_of_a_stage_has_hyphens() -> None:
    def two_words(_asked: Asked) -> None:
        pass

    assert stage(two_words).description.name == "two-words"  # type: ignore[attr-defined]


def no_parameter() -> Answered: ...  # type: ignore[empty-body]
def three(_one: Asked, _two: Event, _three: int) -> Answered: ...  # type: ignore[empty-body]
def bare_parameter(_one) -> Answered: ...  # type: ignore[no-untyped-def] # noqa: ANN001
def no_channel(_one: Payload) -> Answered: ...  # type: ignore[empty-body]
def no_payload(_one: dict[str, Any]) -> Answered: ...  # type: ignore[empty-body]
def no_return(_one: Asked): ...  # type: ignore[no-untyped-def] # noqa: ANN201
def returns_text(_one: Asked) -> str: ...  # type: ignore[empty-body]
def second_is_no_event(_one: Asked, _two: str) -> Answered: ...  # type: ignore[empty-body]
def another_event(_one: Asked, _two: AnyEvent) -> Answered: ...  # type: ignore[empty-body]


def test_annotations_that_cannot_be_read_are_refused_at_start() -> None:
    def typed(submission: Any) -> None: ...

    typed.__annotations__["submission"] = "KnownToTheTypeCheckerAlone"
    with pytest.raises(ConfigurationError, match=r"stage typed: .*KnownToTheTypeCheckerAlone"):
        stage(typed)
    with pytest.raises(ConfigurationError, match=r"stage .*partial.*: its annotations cannot be read"):
        stage(partial(print))


@pytest.mark.parametrize(
    "function",
    [
        no_parameter,
        three,
        bare_parameter,
        no_channel,
        no_payload,
        no_return,
        returns_text,
        second_is_no_event,
        another_event,
    ],
)
def test_annotations_without_channels_are_refused_at_start(function: Any) -> None:
    with pytest.raises(ConfigurationError, match=function.__name__):
        stage(function)
