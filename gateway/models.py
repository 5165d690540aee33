"""The bodies that the gateway takes and answers with, and the problems of its API's description."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from functions.payloads import Submission
from gateway.refusal import Refusal, journal_away

PROBLEM_JSON = "application/problem+json"
HEADER = "Idempotency-Key"
KEY_FIELD = "idempotency_key"
"""The field of a form that has its idempotency key."""

LONGEST_KEY = 255
KEY_FAULT = f"must be 1 to {LONGEST_KEY} visible ASCII characters"
_KEY = r"[\x21-\x7e]{1,255}"

EXAMPLE_ID = "0199a3c5-7d1e-7c4a-9f0e-2b5d8c6a4e11"
EXAMPLE_PLACE = {"email": "ada@example.org", "lat": 51.5074, "long": -0.1278}
EXAMPLE_ACCEPTED = {"id": EXAMPLE_ID, "status": f"/submissions/{EXAMPLE_ID}"}
RETRY_AFTER = {"Retry-After": {"description": "seconds to wait before trying again", "schema": {"type": "integer"}}}
LOCATION = {"Location": {"description": "where to follow it", "schema": {"type": "string"}}}
HTML = {"text/html": {"schema": {"type": "string"}}}


def is_key(text: str) -> bool:
    """Whether this can be an idempotency key."""
    return re.fullmatch(_KEY, text) is not None


def _checked(key: str) -> str:
    if not is_key(key):
        raise ValueError(KEY_FAULT)
    return key


Key = Annotated[
    str,
    AfterValidator(_checked),
    Field(json_schema_extra={"pattern": f"^{_KEY}$", "maxLength": LONGEST_KEY}, examples=["8a5c1f6e-order-17"]),
]


class JsonSubmission(Submission):
    """A submission as a program sends it: no field but these."""

    model_config = ConfigDict(extra="forbid")


class FormSubmission(JsonSubmission):
    """A submission as a form sends it. Its fields may have blanks around them; its numbers are decimals."""

    idempotency_key: Key | None = None


class FieldFault(BaseModel):
    """The fault of one field."""

    field: str
    fault: str = Field(description="reads on from the field's name")


class ProblemDetails(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldFault] | None = Field(None, description="each faulty field; absent where no field is at fault")


class Accepted(BaseModel):
    """An accepted submission: it was published before this response was sent."""

    id: str = Field(description="a UUID; every event that follows from the submission has it")
    status: str = Field(description="where to follow it")


class Reached(BaseModel):
    """A channel that a submission has reached."""

    channel: str = Field(
        description="or dead: and a stage that gave the submission up, with the reason as data; or ended: and a stage"
        " that has taken it without an answer; in a live stream also parts: and a stage that has split it, with the"
        " numbers `parts` and `ended` as data"
    )
    time: str = Field(description="RFC 3339, UTC")
    data: Any = Field(description="the event's data; null if it was too large to be noted")


class SplitStatus(BaseModel):
    """A stage has split the submission into parts, each an event of its own: `{id}/0`, `{id}/1` and so on."""

    stage: str
    parts: int = Field(description="how many; each can be followed by its own id")
    ended: int = Field(description="for how many of them no channel is to come")


class ReachedNow(Reached):
    """A channel that was reached, as the data of a server-sent event."""

    last: bool = Field(description="whether the submission ends here, and the stream with it")


class SubmissionStatus(BaseModel):
    """How far a submission has come."""

    id: str
    over: bool = Field(description="whether no channel is to come: the submission is done, or was given up")
    channels: list[Reached] = Field(description="in the order in which they were reached")
    starting: list[str] = Field(description="channels to come whose stage was at zero and is starting")
    splits: list[SplitStatus] | None = Field(None, description="absent where no stage has split it")


def problem(description: str, refusal: Refusal) -> dict[str, Any]:
    """Describe a refusal in a route's `responses`: problem details, or a page for clients that prefer HTML."""
    example = {"type": "about:blank", "title": refusal.title, "status": refusal.status, "detail": refusal.detail}
    example |= {"errors": refusal.faults} if refusal.faults else {}
    schema = {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"}
    headers = {"headers": RETRY_AFTER} if refusal.retry_after else {}
    content = {PROBLEM_JSON: {"schema": schema, "example": example}, **HTML}
    return {"description": description, **headers, "content": content}


def code_samples(**commands: str) -> dict[str, Any]:
    """The commands of a route's `openapi_extra`, each under its label."""
    return {"x-codeSamples": [{"lang": "curl", "label": name, "source": text} for name, text in commands.items()]}


UNAVAILABLE = problem("Redis is away, or the backlog is at its limit", journal_away())
