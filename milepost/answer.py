"""What a stage says to one event, and how that is written: alone, or beside the answers to others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from milepost.errors import TooLarge
from milepost.events.batch import BATCH_TYPE, write_batch
from milepost.events.event import Event
from milepost.events.strict_json import dumps
from milepost.http import problem_fields, problem_response, whole_seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """200 with a reply, 204 without one, or a problem (RFC 9457) and after how many seconds to try again."""

    reply: Event | None = None
    problem: dict[str, Any] | None = None
    retry_after: float | None = None

    @property
    def status(self) -> int:
        if self.problem is not None:
            return int(self.problem["status"])
        return 200 if self.reply else 204

    def alone(self) -> Response:
        """The response to an event that came by itself: a reply in binary mode."""
        if self.problem is not None:
            return problem_response(self.problem, retry_after=self.retry_after)
        if self.reply is None:
            return Response(status_code=204)
        headers, body = self.reply.to_http()
        return Response(body, headers=headers)


def together(events: Sequence[Event], answers: Sequence[Answer]) -> Response:
    """The response to a batch, in its order: a batch if all have a reply, 204 if all are done and none has. Otherwise
    207, a JSON array of `{"id": "…", "status": 200, "event": {…}}`, `{"id": "…", "status": 204}`, or a problem with
    `id` and, in seconds, `retryAfter`.
    """
    answers = [_of_a_size(answer) for answer in answers]
    statuses = {answer.status for answer in answers}
    if statuses == {200}:
        replies = (answer.reply.to_json().encode() for answer in answers if answer.reply)
        return Response(write_batch(replies), media_type=BATCH_TYPE)
    if statuses == {204}:
        return Response(status_code=204)
    return Response(write_batch(map(_one_of_many, events, answers)), 207, media_type="application/json")


def _of_a_size(answer: Answer) -> Answer:
    """A reply that is no event any more when it is written is a fault of its own event."""
    try:
        if answer.reply is not None:
            answer.reply.to_json()
    except TooLarge as fault:
        return Answer(problem=problem_fields(500, "Too large a reply", str(fault)))
    return answer


def _one_of_many(event: Event, answer: Answer) -> bytes:
    if answer.reply is not None:
        return b'{"id":%b,"status":200,"event":%b}' % (dumps(event.id).encode(), answer.reply.to_json().encode())
    said = {"id": event.id, **(answer.problem or {"status": 204})}
    if answer.retry_after is not None:
        said["retryAfter"] = whole_seconds(answer.retry_after)
    return dumps(said).encode()
