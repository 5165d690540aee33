"""What the API's description says beyond what FastAPI can read off the routes."""

from typing import Any

from fastapi import FastAPI, Path
from fastapi.openapi.utils import get_openapi
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import JSONResponse, Response

from functions.payloads import Submission
from gateway.answers import ID as EXAMPLE_ID
from gateway.answers import LATER, PLACE, REF, Accepted, News, Problem, Progress, answer, problem
from gateway.identity import HEADER, LONGEST_KEY
from gateway.listener import OTHERWISE
from gateway.refusal import FORMS, JSON

_AWAY = problem(
    "Redis is away, or the backlog is over its limit; nothing was accepted",
    503,
    "Service Unavailable",
    "The journal does not answer. Try again with the same Idempotency-Key: what it took nevertheless counts once.",
) | {"headers": LATER}
_UNKNOWN = problem(
    "Unknown, forgotten, or no UUID", 404, "Not Found", "No submission has this id, or it was forgotten by now."
)


def _or_page(description: str, model: type[BaseModel], example: Any) -> dict[str, Any]:
    found = answer(description, model, example)
    return {**found, "content": {**found["content"], "text/html": {"schema": {"type": "string"}}}}


_ACCEPTED = {"id": EXAMPLE_ID, "status": f"/submissions/{EXAMPLE_ID}"}
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
        202: answer("JSON: accepted", Accepted, _ACCEPTED) | {"headers": _LOCATION},
        201: {
            "description": "Form: accepted; a page, or JSON",
            "headers": _LOCATION,
            "content": {
                "text/html": {"schema": {"type": "string"}},
                JSON: {"schema": {"$ref": REF.format(model="Accepted")}, "example": _ACCEPTED},
            },
        },
        400: problem(
            "Broken JSON, or a broken form",
            400,
            "Bad Request",
            "The body is not JSON: Expecting value, line 1, column 10.",
        ),
        408: problem(
            "A body that does not arrive",
            408,
            "Request Timeout",
            "The body did not arrive within 10 s. Nothing was accepted.",
        ),
        413: problem(
            "A body that is too large",
            413,
            "Content Too Large",
            "A body has at most 64,000 bytes. Nothing was accepted.",
        ),
        415: problem(
            "Neither JSON nor a form",
            415,
            "Unsupported Media Type",
            f"Send {JSON}, or a form: {' or '.join(sorted(FORMS))}.",
        ),
        422: problem(
            "Fields at fault, each named",
            422,
            "Unprocessable Content",
            "lat must be at most 90; long is missing",
            errors=[{"field": "lat", "fault": "must be at most 90"}, {"field": "long", "fault": "is missing"}],
        ),
        429: problem(
            "Too many of one client, where the gateway counts",
            429,
            "Too Many Requests",
            "At most 60 per 1 minute from one address. Nothing was accepted.",
        )
        | {"headers": LATER},
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
                media: {"schema": {"$ref": REF.format(model="Submission")}, "example": PLACE}
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

ID = Path(alias="id", description="as POST /distance answered it", openapi_examples={"id": {"value": EXAMPLE_ID}})

FOLLOW: dict[str, Any] = {
    "summary": "Follow a submission",
    "description": (
        "Which channels it has reached so far. Forgotten about an hour after the last of them. Whoever prefers"
        " text/html gets it as a page."
    ),
    "response_class": JSONResponse,
    "responses": {
        200: _or_page(
            "How far it has come",
            Progress,
            {
                "id": EXAMPLE_ID,
                "over": False,
                "channels": [
                    {"channel": "raw_input", "time": "2025-10-01T09:30:00.120Z", "data": PLACE},
                    {
                        "channel": "calculated_distance",
                        "time": "2025-10-01T09:30:00.131Z",
                        "data": {"email": "ada@example.org", "distance_from_velocity": 2216.0742916592476},
                    },
                ],
            },
        ),
        404: _UNKNOWN,
        503: _AWAY,
    },
    "openapi_extra": {
        "x-codeSamples": [
            {"lang": "curl", "label": "Follow", "source": f"curl http://127.0.0.1:8000/submissions/{EXAMPLE_ID}"}
        ],
    },
}

LAST_EVENT_ID = "The id of the last event you have, as a browser sends it: what comes is all that you miss."

WATCH: dict[str, Any] = {
    "summary": "Watch a submission",
    "description": (
        "Server-sent events: each channel it has reached and each it reaches from now on, once, with the time and the"
        " data; the last says so, and ends the stream. A stage that gives up shows as dead: and its name, with the"
        " reason. An event's id names all that you have by then: ask again with it as Last-Event-ID and you miss"
        " nothing and get nothing twice. Comments keep a quiet stream alive; every stream ends after 15 minutes or"
        " when the gateway stops, and you ask again. One client has 20 streams at a time unless STREAM_LIMIT says"
        " otherwise; who is refused one can follow the submission instead."
    ),
    "response_class": Response,
    "responses": {
        200: {
            "description": "A stream of events",
            "content": {
                EventSourceResponse.media_type: {
                    "schema": {
                        "type": "string",
                        "description": "the data of each event is one News as JSON",
                        "contentMediaType": JSON,
                        "contentSchema": {"$ref": REF.format(model="News")},
                    },
                    "example": (
                        'retry: 2000\n\ndata: {"channel":"email:sent","time":"2025-10-01T09:30:00.158Z","data":'
                        '{"email":"ada@example.org","distance_from_velocity":2216.0742916592476,'
                        '"message":"You are 2216.0742916592476 miles from Velocity."},"last":true}\n'
                        "id: raw_input,calculated_distance,user:email,email:sent\n\n"
                    ),
                }
            },
        },
        204: {"description": "It is over, and Last-Event-ID says that you have it all: do not ask again"},
        404: _UNKNOWN,
        429: problem(
            "Too many streams of one client",
            429,
            "Too Many Requests",
            f"At most 20 live streams for one address at a time. {OTHERWISE}",
        )
        | {"headers": LATER},
        503: problem(
            "Redis is away, or too many are watching",
            503,
            "Service Unavailable",
            f"Too many are watching just now. {OTHERWISE}",
        )
        | {"headers": LATER},
    },
    "openapi_extra": {
        "x-codeSamples": [
            {
                "lang": "curl",
                "label": "Watch",
                "source": f"curl --no-buffer http://127.0.0.1:8000/submissions/{EXAMPLE_ID}/events",
            }
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
            for path in ("/submissions/{id}", "/submissions/{id}/events"):
                del app.openapi_schema["paths"][path]["get"]["responses"]["422"]
            app.openapi_schema["components"] = {"schemas": _schemas()}
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _schemas() -> dict[str, Any]:
    models = [(model, "validation") for model in (Submission, Accepted, Progress, News, Problem)]
    _, definitions = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]
    schemas: dict[str, Any] = definitions["$defs"]
    # The gateway takes no fields but these; elsewhere a payload may have more than its class names.
    schemas["Submission"]["additionalProperties"] = False
    return schemas
