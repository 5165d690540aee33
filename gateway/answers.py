"""The shapes of what the gateway answers, each with an example, for the API's description."""

from typing import Any

from pydantic import BaseModel, Field

from gateway.refusal import JSON

PROBLEM_JSON = "application/problem+json"
REF = "#/components/schemas/{model}"

ID = "0199a3c5-7d1e-7c4a-9f0e-2b5d8c6a4e11"
PLACE = {"email": "ada@example.org", "lat": 51.5074, "long": -0.1278}
LATER = {"Retry-After": {"description": "seconds to wait before trying again", "schema": {"type": "integer"}}}


class Fault(BaseModel):
    """What is wrong with one field."""

    field: str
    fault: str = Field(description="reads on from the field's name")


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[Fault] | None = Field(None, description="of each faulty field; absent where no field is at fault")


class Accepted(BaseModel):
    """A submission that is kept: published before this was answered."""

    id: str = Field(description="a UUID; every event that follows from the submission has it")
    status: str = Field(description="where to follow it")


class Reached(BaseModel):
    """A channel that a submission has reached."""

    channel: str = Field(description="or dead: and a stage, where it was given up; its data is the reason")
    time: str = Field(description="RFC 3339, UTC")
    data: Any = Field(description="what the event said; null if it was too large to be noted")


class News(Reached):
    """A channel that was reached, told as the data of a server-sent event."""

    last: bool = Field(description="whether the submission ends here, and the stream with it")


class Progress(BaseModel):
    """How far a submission has come."""

    id: str
    over: bool = Field(description="whether nothing more is to come: it is done, or was given up")
    channels: list[Reached] = Field(description="in the order in which they were reached")


def problem(description: str, status: int, title: str, detail: str, **more: Any) -> dict[str, Any]:
    """An error as an answer of the description: a problem, or a page for whoever prefers one."""
    example = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return {
        "description": description,
        "content": {
            PROBLEM_JSON: {"schema": {"$ref": REF.format(model="Problem")}, "example": example},
            "text/html": {"schema": {"type": "string"}},
        },
    }


def answer(description: str, model: type[BaseModel], example: Any) -> dict[str, Any]:
    """JSON of this model as an answer of the description."""
    schema = {"$ref": REF.format(model=model.__name__)}
    return {"description": description, "content": {JSON: {"schema": schema, "example": example}}}
