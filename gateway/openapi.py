"""What the API's description says beyond what FastAPI can read off the routes."""

from typing import Any

from fastapi import FastAPI, Path
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema
from starlette.responses import JSONResponse, Response

from functions.payloads import Submission
from gateway.identity import HEADER, LONGEST_KEY
from gateway.refusal import FORMS, JSON

PROBLEM_JSON = "application/problem+json"
REF = "#/components/schemas/{model}"

_ID = "0199a3c5-7d1e-7c4a-9f0e-2b5d8c6a4e11"
_PLACE = {"email": "ada@example.org", "lat": 51.5074, "long": -0.1278}
_LATER = {"Retry-After": {"description": "seconds to wait before trying again", "schema": {"type": "integer"}}}


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


class Progress(BaseModel):
    """How far a submission has come."""

    id: str
    channels: list[Reached] = Field(description="in the order in which they were reached")


def _problem(description: str, status: int, title: str, detail: str, **more: Any) -> dict[str, Any]:
    example = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return {
        "description": description,
        "content": {PROBLEM_JSON: {"schema": {"$ref": REF.format(model="Problem")}, "example": example}},
    }


def _answer(description: str, model: type[BaseModel], example: Any) -> dict[str, Any]:
    schema = {"$ref": REF.format(model=model.__name__)}
    return {"description": description, "content": {JSON: {"schema": schema, "example": example}}}


_AWAY = _problem(
    "Redis is away, or the backlog is over its limit; nothing was accepted",
    503,
    "Service Unavailable",
    "The journal does not answer. Try again with the same Idempotency-Key: what it took nevertheless counts once.",
) | {"headers": _LATER}
_ACCEPTED = {"id": _ID, "status": f"/submissions/{_ID}"}
_LOCATION = {"Location": {"description": "where to follow it", "schema": {"type": "string"}}}

SUBMIT: dict[str, Any] = {
    "summary": "Submit a place",
    "description": (
        "Computes how far the place is from the office and e-mails the answer. When this answers 2xx the submission is"
        " in the journal, and it is delivered whatever process dies. A form is answered with a page; with JSON if its"
        " Accept header names application/json. A form's fields may have blanks around them and its numbers are"
        " decimal strings; a form may carry its key as the field idempotency_key."
    ),
    "status_code": 202,
    "response_class": Response,
    "responses": {
        202: _answer("JSON: accepted", Accepted, _ACCEPTED) | {"headers": _LOCATION},
        201: {
            "description": "Form: accepted; a page, or JSON",
            "headers": _LOCATION,
            "content": {
                "text/html": {"schema": {"type": "string"}},
                JSON: {"schema": {"$ref": REF.format(model="Accepted")}, "example": _ACCEPTED},
            },
        },
        400: _problem(
            "Broken JSON, or a broken form",
            400,
            "Bad Request",
            "The body is not JSON: Expecting value, line 1, column 10.",
        ),
        408: _problem(
            "A body that does not arrive",
            408,
            "Request Timeout",
            "The body did not arrive within 10 s. Nothing was accepted.",
        ),
        413: _problem(
            "A body that is too large",
            413,
            "Content Too Large",
            "A body has at most 64,000 bytes. Nothing was accepted.",
        ),
        415: _problem(
            "Neither JSON nor a form",
            415,
            "Unsupported Media Type",
            f"Send {JSON}, or a form: {' or '.join(sorted(FORMS))}.",
        ),
        422: _problem(
            "Fields at fault, each named",
            422,
            "Unprocessable Content",
            "lat must be at most 90; long is missing",
            errors=[{"field": "lat", "fault": "must be at most 90"}, {"field": "long", "fault": "is missing"}],
        ),
        503: _AWAY,
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": HEADER,
                "in": "header",
                "required": False,
                "description": "Makes a retry the same submission: the id comes from this key and the body.",
                "schema": {"type": "string", "pattern": r"^[\x21-\x7e]+$", "maxLength": LONGEST_KEY},
                "example": "8a5c1f6e-order-17",
            },
            {
                "name": "traceparent",
                "in": "header",
                "required": False,
                "description": "W3C Trace Context; handed on in the event. One that is not valid is ignored.",
                "schema": {"type": "string"},
                "example": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                media: {"schema": {"$ref": REF.format(model="Submission")}, "example": _PLACE}
                for media in (JSON, *sorted(FORMS))
            },
        },
        "x-codeSamples": [
            {
                "lang": "curl",
                "label": "JSON",
                "source": (
                    'curl --json \'{"email": "ada@example.org", "lat": 51.5074, "long": -0.1278}\' \\\n'
                    "  http://127.0.0.1:8000/distance"
                ),
            },
            {
                "lang": "curl",
                "label": "Form",
                "source": "curl -F email=ada@example.org -F lat=51.5074 -F long=-0.1278 \\\n  http://127.0.0.1:8000/distance",
            },
        ],
    },
}

ID = Path(alias="id", description="as POST /distance answered it", openapi_examples={"id": {"value": _ID}})

FOLLOW: dict[str, Any] = {
    "summary": "Follow a submission",
    "description": "Which channels it has reached so far. Forgotten about an hour after the last of them.",
    "response_class": JSONResponse,
    "responses": {
        200: _answer(
            "How far it has come",
            Progress,
            {
                "id": _ID,
                "channels": [
                    {"channel": "raw_input", "time": "2025-10-01T09:30:00.120Z", "data": _PLACE},
                    {
                        "channel": "calculated_distance",
                        "time": "2025-10-01T09:30:00.131Z",
                        "data": {"email": "ada@example.org", "distance_from_velocity": 2216.0742916592476},
                    },
                ],
            },
        ),
        404: _problem(
            "Unknown, forgotten, or no UUID", 404, "Not Found", "No submission has this id, or it was forgotten by now."
        ),
        503: _AWAY,
    },
    "openapi_extra": {
        "x-codeSamples": [
            {"lang": "curl", "label": "Follow", "source": f"curl http://127.0.0.1:8000/submissions/{_ID}"}
        ],
    },
}

HEALTH: dict[str, Any] = {
    "summary": "Is the process alive?",
    "responses": {200: {"description": "yes", "content": {JSON: {"example": {"status": "alive"}}}}},
}

READY: dict[str, Any] = {
    "summary": "Can it take submissions?",
    "responses": {
        200: {"description": "yes: Redis answers", "content": {JSON: {"example": {"status": "ready"}}}},
        503: _AWAY,
    },
}


def install(app: FastAPI) -> None:
    """Let `app.openapi()`, and with it /openapi.json, describe the bodies that the routes read themselves."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            # FastAPI's own validation errors never occur: what is no id is answered 404.
            del app.openapi_schema["paths"]["/submissions/{id}"]["get"]["responses"]["422"]
            app.openapi_schema["components"] = {"schemas": _schemas()}
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _schemas() -> dict[str, Any]:
    models = [(model, "validation") for model in (Submission, Accepted, Progress, Problem)]
    _, definitions = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]
    schemas: dict[str, Any] = definitions["$defs"]
    # The gateway takes no fields but these; elsewhere a payload may have more than its class names.
    schemas["Submission"]["additionalProperties"] = False
    return schemas
