"""`POST /distance`: a submission as JSON or as a form becomes an event. Forms may point to `/` too.

A path takes JSON, forms and neither: three routes share it, and `matches` chooses by the request's content type.
"""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar
from urllib.parse import parse_qsl

from fastapi import APIRouter, Header, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import Scope

from functions.payloads import Submission
from gateway.body_limit import too_large, too_slow
from gateway.identity import identify, traceparent
from gateway.models import (
    EXAMPLE_ACCEPTED,
    EXAMPLE_PLACE,
    HEADER,
    HTML,
    KEY_FAULT,
    KEY_FIELD,
    LOCATION,
    UNAVAILABLE,
    Accepted,
    FormSubmission,
    JsonSubmission,
    Key,
    code_samples,
    is_key,
    problem,
)
from gateway.pages import Pages
from gateway.rate import RateLimit, over_limit
from gateway.refusal import (
    FORMS,
    JSON,
    URLENCODED,
    Refusal,
    Typed,
    fault,
    faults,
    invalid,
    other_content_type,
    unavailable,
    wants_page,
)
from gateway.status import GraphReader, Status
from milepost.errors import BacklogFull, JournalUnavailable
from milepost.events.event import Event, media_type, now
from milepost.events.strict_json import decode
from milepost.journal import Journal, Note
from milepost.observe import traces
from milepost.observe.logs import Fields

SOURCE = "/milepost/gateway"

MOST_FIELDS = 32
"""Fields, and files, that a form may have."""

GIVEN_TWICE = "must be given once"
"""The fault of a header, or of a field in a form or in JSON, that comes more than once."""

log = logging.getLogger("gateway")

IdempotencyKey = Annotated[
    Key | None,
    Header(alias=HEADER, description="Makes a retry the same submission: the id comes from this key and the body."),
]


@dataclass(frozen=True)
class SubmissionPublisher:
    """Publishes submissions, as often as one client may."""

    journal: Journal
    rate: RateLimit | None

    async def publish(self, request: Request, submission: Submission, key: str | None) -> str:
        """Publish, and return the id, also of a submission that was published before. Raises Refusal.

        If Redis's reply was lost that is a 503 though the event is journaled. A second try with the same key is then
        recognised.
        """
        if len(request.headers.getlist(HEADER)) > 1:
            raise invalid([fault(HEADER, GIVEN_TWICE)])
        data = submission.model_dump(mode="json", include=_FIELDS)
        event = Event(
            id=identify(data, key),
            source=SOURCE,
            type=Submission.channel,
            time=now(),
            data=data,
            extensions=traceparent(request.headers.getlist("traceparent")),
        )
        try:
            if self.rate:
                await self.rate.check(request)
            await self._journal(event)
        except (JournalUnavailable, BacklogFull) as cause:
            log.warning(Fields(channel=event.type, id=event.id, outcome="refused", reason=str(cause)))
            raise unavailable(cause) from cause
        return event.id

    async def _journal(self, event: Event) -> None:
        tracer = traces.tracer("gateway")
        if tracer is None:
            await self.journal.publish(event)
            return
        with tracer.send(event) as traced:
            await self.journal.publish(traced)


_FIELDS = set(Submission.model_fields)


class _ByContentType(Route):
    """A route for requests of these content types alone."""

    content_types: ClassVar[frozenset[str]]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if match == Match.FULL and media_type(Headers(scope=scope).get("content-type", "")) not in self.content_types:
            return Match.NONE, {}
        return match, child


class _FormRoute(_ByContentType):
    """Starlette's: for an endpoint without parameters FastAPI's would take a tenth of the gateway's time."""

    content_types = FORMS


class _JsonRoute(_ByContentType, APIRoute):
    content_types = frozenset({JSON})

    def get_route_handler(self) -> Any:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Any:
            return await handle(_StrictJson(request.scope, request.receive))

        return strict


def _distinct(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members. Raises Refusal if two have one name: JSON readers differ in which they take."""
    made = dict(members)
    if len(made) < len(members):
        times = Counter(name for name, _ in members)
        raise invalid([fault(name, GIVEN_TWICE) for name in made if times[name] > 1])
    return made


_decode_json = json.JSONDecoder(object_pairs_hook=_distinct).decode


class _StrictJson(Request):
    """A request whose body must be JSON, in UTF-8."""

    async def body(self) -> bytes:
        body = await super().body()
        if not body:
            raise Refusal(400, "The body is not JSON: it is empty.")
        return body

    async def json(self) -> Any:
        """The JSON value. NaN and infinities pass, for validation to name the field they stand in. Raises Refusal."""
        try:
            return _decode_json(decode(await self.body()))
        except RecursionError:
            raise Refusal(400, "The body is not JSON that can be read: nested too deeply.") from None
        except json.JSONDecodeError as cause:
            place = f"line {cause.lineno}, column {cause.colno}"
            raise Refusal(400, f"The body is not JSON: {cause.msg}, {place}.") from None
        except ValueError:
            raise Refusal(
                400, "The body is not JSON that can be read: not UTF-8, or a number of too many digits."
            ) from None


@dataclass(frozen=True, slots=True)
class SubmittedForm:
    """A form that is right, and its fields as they were typed."""

    submission: FormSubmission
    key: str | None
    typed: Typed


async def submitted_form(request: Request) -> SubmittedForm:
    """Read a form. Raises Refusal.

    This is no `Form()` parameter of FastAPI's, which takes the last of a field that is given twice, reads bytes that
    are not UTF-8 as other letters, and so another address, and costs a fourth of the gateway's time.
    """
    try:
        is_urlencoded = media_type(request.headers.get("content-type", "")) == URLENCODED
        fields = await (_urlencoded(request) if is_urlencoded else _multipart(request))
    except UnicodeError:
        raise Refusal(400, "The form cannot be read: its text is not UTF-8.") from None
    # Blanks and no more: a line break in an address is not an accident to be tidied away.
    typed = {name: value.strip(" \t") if isinstance(value, str) else value for name, value in fields}
    found = []
    if len(typed) < len(fields):
        times = Counter(name for name, _ in fields)
        found = [fault(name, GIVEN_TWICE) for name in typed if times[name] > 1]
    given = {name: value for name, value in typed.items() if value or name == KEY_FIELD}
    key = request.headers.get(HEADER)
    if key is not None:
        given.pop(KEY_FIELD, None)
        if not is_key(key):
            found.append(fault(HEADER, KEY_FAULT))
    try:
        submission = FormSubmission.model_validate(given)
    except ValidationError as cause:
        named = {one["field"] for one in found}
        found += [one for one in faults(cause.errors()) if one["field"] not in named]
    if found:
        raise invalid(found, typed=typed)
    return SubmittedForm(submission, key or submission.idempotency_key, typed)


async def _urlencoded(request: Request) -> list[tuple[str, str]]:
    fields = parse_qsl((await request.body()).decode(), keep_blank_values=True, errors="strict")
    if len(fields) > MOST_FIELDS:
        raise Refusal(400, f"The form cannot be read: it has more than {MOST_FIELDS} fields.")
    return fields


async def _multipart(request: Request) -> list[tuple[str, str | UploadFile]]:
    (await request.body()).decode()
    try:
        async with request.form(max_files=MOST_FIELDS, max_fields=MOST_FIELDS) as form:
            return [
                (name, value.encode(errors="replace").decode() if isinstance(value, str) else value)
                for name, value in form.multi_items()
            ]
    except HTTPException as cause:
        raise Refusal(400, f"The form cannot be read: {cause.detail}") from None


_FORM_SCHEMA = FormSubmission.model_json_schema()

SUBMIT: dict[str, Any] = {
    "summary": "Submit a place",
    "response_model": Accepted,
    "response_description": "JSON: accepted",
    "responses": {
        202: {"headers": LOCATION, "content": {JSON: {"example": EXAMPLE_ACCEPTED}}},
        201: {
            "description": "Form: accepted; a page, or JSON",
            "model": Accepted,
            "headers": LOCATION,
            "content": {JSON: {"example": EXAMPLE_ACCEPTED}, **HTML},
        },
        400: problem(
            "Broken JSON or form, or two content types",
            Refusal(400, "The body is not JSON: Expecting value, line 1, column 10."),
        ),
        408: problem("A body that does not arrive", too_slow()),
        413: problem("A body that is too large", too_large()),
        415: problem("Neither JSON nor a form, or an encoded body", other_content_type()),
        422: problem(
            "Fields at fault, each named", invalid([fault("lat", "must be at most 90"), fault("long", "is missing")])
        ),
        429: problem("Too many of one client, where the gateway counts", over_limit("60 per 1 minute", retry_after=60)),
        503: UNAVAILABLE,
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": "traceparent",
                "in": "header",
                "required": False,
                "description": "W3C Trace Context; handed on in the event. One that is not valid is ignored.",
                "schema": {"type": "string"},
                "example": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            },
        ],
        # FastAPI describes one route for a path and method: the one for JSON.
        "requestBody": {
            "content": {
                JSON: {"example": EXAMPLE_PLACE},
                **{media: {"schema": _FORM_SCHEMA, "example": EXAMPLE_PLACE} for media in sorted(FORMS)},
            }
        },
        **code_samples(
            JSON=(
                'curl --json \'{"email": "ada@example.org", "lat": 51.5074, "long": -0.1278}\' \\\n'
                "  http://127.0.0.1:8000/distance"
            ),
            Form="curl -F email=ada@example.org -F lat=51.5074 -F long=-0.1278 \\\n  http://127.0.0.1:8000/distance",
        ),
    },
}


def router(publisher: SubmissionPublisher, graphs: GraphReader, pages: Pages) -> APIRouter:
    """The routes for JSON, for forms, and for any other content type."""
    from_json, routes = APIRouter(route_class=_JsonRoute), APIRouter()

    @from_json.post("/distance", status_code=202, **SUBMIT)
    @from_json.post("/", status_code=202, include_in_schema=False)
    async def submit_json(
        request: Request, response: Response, submission: JsonSubmission, key: IdempotencyKey = None
    ) -> Any:
        """Computes how far the place is from the office and e-mails the answer. When this answers 2xx the submission is
        in the journal, and it is delivered even if a process dies. A form is answered with a page; with JSON if its
        Accept header names application/json. Numbers may be text, as people paste them: with a true minus sign, and
        with blanks or direction marks around them.
        """
        accepted, headers = _accepted(await publisher.publish(request, submission, key))
        response.headers.update(headers)
        return accepted

    async def submit_form(request: Request) -> Response:
        form = await submitted_form(request)
        try:
            event_id = await publisher.publish(request, form.submission, form.key)
        except Refusal as refusal:
            refusal.typed = form.typed
            raise
        if not wants_page(request.headers):
            accepted, headers = _accepted(event_id)
            return JSONResponse(accepted, 201, headers)
        notes = {Submission.channel: Note(datetime.now(UTC), form.submission.model_dump(mode="json", include=_FIELDS))}
        return pages.submission(Status(event_id, notes, await graphs.graph()), status=201)

    @routes.post("/distance", include_in_schema=False)
    @routes.post("/", include_in_schema=False)
    async def refuse_other_content_types() -> Response:
        raise other_content_type()

    from_form = [_FormRoute(path, submit_form, methods=["POST"]) for path in ("/distance", "/")]
    routes.routes[:0] = [*from_form, *from_json.routes]
    return routes


def _accepted(event_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the body and the headers of the answer to an accepted submission."""
    place = f"/submissions/{event_id}"
    return {"id": event_id, "status": place}, {"location": place, "cache-control": "no-store"}
