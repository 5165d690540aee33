"""Write a stage's answer to one event as a response, or as an item of the response to a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from starlette.responses import Response

from milepost.errors import MilepostError, TooLarge
from milepost.events.batch import BATCH_TYPE, write_batch
from milepost.events.event import STRUCTURED_TYPE, Event
from milepost.events.strict_json import dumps
from milepost.server.http import problem_fields, problem_response, status_of, whole_seconds


@dataclass(frozen=True, slots=True)
class StageResponse:
    """200 with the next event, 204 without one, or a problem (RFC 9457) with the seconds until the next try.

    `answers`: the next events of a stage that gives several; None for every other stage.
    """

    reply: Event | None = None
    answers: Sequence[Event] | None = None
    problem: dict[str, Any] | None = None
    retry_after: float | None = None

    @classmethod
    def of_fault(cls, fault: MilepostError) -> Self:
        """Make the problem for an exception."""
        problem = problem_fields(*status_of(fault), str(fault), errors=getattr(fault, "errors", None))
        return cls(problem=problem, retry_after=getattr(fault, "retry_after", None))

    @property
    def status(self) -> int:
        if self.problem is not None:
            return int(self.problem["status"])
        return 200 if self.reply or self.answers else 204

    def to_http(self, *, structured: bool = False) -> Response:
        """Make the response to an event that came by itself. The next event is in its mode: structured or binary."""
        response = _checked(self) if structured else self
        if response.problem is not None:
            return problem_response(response.problem, retry_after=response.retry_after)
        if response.answers:
            answers = (answer.to_json().encode() for answer in response.answers)
            return Response(write_batch(answers), media_type=BATCH_TYPE)
        if response.reply is None:
            return Response(status_code=204)
        if structured:
            return Response(response.reply.to_json(), media_type=STRUCTURED_TYPE)
        headers, body = response.reply.to_http()
        return Response(body, headers=headers)


def batch_response(events: Sequence[Event], responses: Sequence[StageResponse]) -> Response:
    """Make the response to a batch of events, in their order.

    A batch if each has a next event; 204 if none has one and none failed. Otherwise 207, a JSON array of
    `{"id": "…", "status": 200, "event": {…}}`, or `"events": […]` of a stage that gives several answers;
    `{"id": "…", "status": 204}`; or a problem with `id` and, in seconds, `retryAfter`.
    """
    responses = [_checked(response) for response in responses]
    statuses = {response.status for response in responses}
    if statuses == {200} and all(response.reply for response in responses):
        replies = (response.reply.to_json().encode() for response in responses if response.reply)
        return Response(write_batch(replies), media_type=BATCH_TYPE)
    if statuses == {204}:
        return Response(status_code=204)
    return Response(write_batch(map(_batch_item, events, responses)), 207, media_type="application/json")


def _checked(response: StageResponse) -> StageResponse:
    """Turn a reply that is too large to be written into a problem of its event."""
    try:
        if response.reply is not None:
            response.reply.to_json()
    except TooLarge as fault:
        return StageResponse(problem=problem_fields(500, "Too large a reply", str(fault)))
    return response


def _batch_item(event: Event, response: StageResponse) -> bytes:
    if response.reply is not None:
        return b'{"id":%b,"status":200,"event":%b}' % (dumps(event.id).encode(), response.reply.to_json().encode())
    if response.answers:
        events = write_batch(answer.to_json().encode() for answer in response.answers)
        return b'{"id":%b,"status":200,"events":%b}' % (dumps(event.id).encode(), events)
    item = {"id": event.id, **(response.problem or {"status": 204})}
    if response.retry_after is not None:
        item["retryAfter"] = whole_seconds(response.retry_after)
    return dumps(item).encode()
