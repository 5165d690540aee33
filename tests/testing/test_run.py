"""`run`, `answer`, `load` and `example`: a stage, called without a server."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from functions.payloads import CalculatedDistance, EmailSent, Recipient, Submission
from milepost import Defer, Payload, Reject, RootPayload, Unavailable, stage
from milepost.errors import ConfigurationError
from milepost.events.event import Event
from milepost.testing import Problem, answer, example, load, run
from tests.servers import ROOT

LONDON = {"email": "ada@EXAMPLE.org", "lat": "51.5074", "long": -0.1278}
distance = load(ROOT / "functions" / "distance" / "main.py")


def test_run_returns_the_next_payload() -> None:
    miles = CalculatedDistance(email="ada@example.org", distance_from_velocity=2216.0742916592476)
    assert run(distance, LONDON) == miles
    assert run(distance, Submission(email="ada@example.org", lat=51.5074, long=-0.1278)) == miles


def test_run_returns_none_for_a_stage_that_emits_nothing() -> None:
    seen: list[str] = []

    def end(recipient: Recipient) -> None:
        seen.append(recipient.root)

    assert run(stage(end), Recipient("ada@example.org")) is None
    assert seen == ["ada@example.org"]


def test_invalid_payload_raises_a_problem_that_names_the_field() -> None:
    with pytest.raises(Problem, match="422 Invalid payload: lat: ") as refused:
        run(distance, {**LONDON, "lat": 91})
    assert refused.value.status == 422
    assert [error["field"] for error in refused.value.errors] == ["lat"]
    assert refused.value.retry_after is None


@pytest.mark.parametrize(
    ("fault", "status", "retry_after"),
    [
        (Reject("too far"), 422, None),
        (Defer("elsewhere", retry_after=7), 409, 7),
        (Unavailable("the map is away", retry_after=30), 503, 30),
        (KeyError("a bug"), 500, None),
    ],
    ids=repr,
)
def test_run_raises_the_problem_that_the_bridge_sees(fault: Exception, status: int, retry_after: float | None) -> None:
    def refuse(recipient: Recipient) -> EmailSent:
        raise fault

    with pytest.raises(Problem) as refused:
        run(stage(refuse), "ada@example.org")
    assert (refused.value.status, refused.value.retry_after) == (status, retry_after)


async def test_answer_returns_the_whole_event() -> None:
    event = Event(
        id="7", source="/me", type="raw_input", time="2026-05-04T03:02:01Z", data=LONDON, extensions={"tracestate": "a"}
    )
    reply = await answer(distance, event)
    assert reply is not None
    assert (reply.id, reply.source, reply.type) == ("7", "/milepost/distance", "calculated_distance")
    assert (reply.time, reply.extensions) == (event.time, {"tracestate": "a"})
    with pytest.raises(Problem, match="422 Rejected: type: distance consumes raw_input"):
        await answer(distance, Event(id="7", source="/me", type="other"))


def test_load_refuses_other_files() -> None:
    with pytest.raises(ImportError, match="no Python file"):
        load(ROOT / "README.md")


class Inner(Payload):
    count: Annotated[int, Field(ge=3)]
    kind: Literal["a", "b"]


class Outer(Payload, channel="outer"):
    inner: Inner
    many: list[Inner]
    maybe: str | None
    share: Annotated[float, Field(gt=0, lt=2)]
    anything: Any
    by_default: int = 9
    flag: bool


class Code(RootPayload[Annotated[str, Field(pattern="[0-9]+")]], channel="code"):
    pass


def test_example_follows_the_class() -> None:
    assert example(Submission) == Submission(email="ada@example.org", lat=51.5074, long=-0.1278)
    assert example(Recipient) == Recipient("ada@example.org")
    inner = Inner(count=3, kind="a")
    assert example(Outer) == Outer(inner=inner, many=[inner], maybe="text", share=1, anything="text", flag=True)


def test_class_without_a_possible_example_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Code: no example can be made; give Field\(examples"):
        example(Code)
