"""`stage` on its own, called as functions-framework calls it. tests/contract has the stages over HTTP."""

import json
import threading
from typing import Any, Optional

import pytest
from cloudevents.abstract import CloudEvent as AnyEvent
from cloudevents.http import CloudEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from milepost import Defer, Event, InHand, Payload, Reject, RootPayload, Unavailable, stage
from milepost.errors import ConfigurationError, JournalUnavailable

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


def same_channel(_asked: Asked) -> Approved | Urgent: ...  # type: ignore[empty-body]
def no_channel(_asked: Asked) -> Approved | int: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (same_channel, "Approved and Urgent, which both have the channel approved"),
        (no_channel, "int has no channel"),
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
        (Defer("not yet", retry_after=60), 409, "Deferred", "60"),
        (InHand("busy", retry_after=2.2), 409, "In hand elsewhere", "3"),
        (InHand("busy", retry_after=-1), 409, "In hand elsewhere", "1"),
        (Unavailable("away"), 503, "Unavailable", "1"),
        (JournalUnavailable("away"), 500, "Internal error", None),
        (RuntimeError("a secret"), 500, "Internal error", None),
    ],
)
async def test_exceptions_become_problems(raised: Exception, status: int, title: str, retry_after: str | None) -> None:
    def fails(_asked: Asked) -> Answered:
        raise raised

    response = await deliver(stage(fails))
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
