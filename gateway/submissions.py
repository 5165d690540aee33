"""Submissions: taken in as a form or as JSON, and published."""

import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from functions.payloads import Submission
from gateway import openapi
from gateway.course import Chart
from gateway.form import read_form
from gateway.identity import HEADER, identify, is_key, traceparent
from gateway.pages import Pages
from gateway.rate import RateLimit
from gateway.refusal import FORMS, JSON, Faults, Refusal, fault, faults, invalid, media_type, unavailable, wants_page
from milepost.errors import BacklogFull, JournalUnavailable
from milepost.events.event import Event, now
from milepost.events.strict_json import decode
from milepost.journal import Journal, Note
from milepost.observe import traces
from milepost.observe.logs import Fields

SOURCE = "/milepost/gateway"
KEY_FIELD = "idempotency_key"

_FIELDS = frozenset(Submission.model_fields)

log = logging.getLogger("gateway")

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True)
class Door:
    """The way into the journal, and how often one client may use it."""

    journal: Journal
    rate: RateLimit | None

    async def publish(self, request: Request, event_id: str, submission: Submission) -> None:
        """Publish and return; one that was published before is as good. Raises Refusal: then nothing was accepted."""
        event = Event(
            id=event_id,
            source=SOURCE,
            type=Submission.channel,
            time=now(),
            data=submission.model_dump(mode="json"),
            extensions=traceparent(request.headers.getlist("traceparent")),
        )
        try:
            if self.rate:
                await self.rate.check(request)
            await self._journal(event)
        except (JournalUnavailable, BacklogFull) as cause:
            log.warning(Fields(channel=event.type, id=event_id, outcome="refused", reason=str(cause)))
            raise unavailable(cause) from cause

    async def _journal(self, event: Event) -> None:
        tracer = traces.tracer("gateway")
        if tracer is None:
            await self.journal.publish(event)
            return
        with tracer.send(event) as traced:
            await self.journal.publish(traced)


class _AsAsked(APIRoute):
    """Hands the request to the endpoint as it is: there is nothing for FastAPI to read of it."""

    def get_route_handler(self) -> Endpoint:
        return self.endpoint


def router(door: Door, chart: Chart, pages: Pages) -> APIRouter:
    """`POST /distance`, and `POST /` for forms that point there."""
    routes = APIRouter(route_class=_AsAsked)

    async def take_json(request: Request) -> Response:
        submission = _validate(_parse(await request.body()))
        event_id = identify(submission, request.headers.get(HEADER))
        await door.publish(request, event_id, submission)
        return _accepted(202, event_id)

    async def take_form(request: Request) -> Response:
        typed, wrong = await read_form(request)
        key = typed.pop(KEY_FIELD, None)
        header = request.headers.get(HEADER)
        try:
            submission = _validate({name: text for name, text in typed.items() if text}, wrong)
            given, named = (key, KEY_FIELD) if header is None else (header, HEADER)
            event_id = identify(submission, given, named)
            await door.publish(request, event_id, submission)
        except Refusal as refusal:
            if not wants_page(request.headers):
                raise
            # The same key again: should the journal have had it after all, the next try is the same submission.
            return pages.form(typed, key=key if key and is_key(key) else None, refusal=refusal)
        if not wants_page(request.headers):
            return _accepted(201, event_id)
        notes = {Submission.channel: Note(datetime.now(UTC), submission.model_dump(mode="json"))}
        return pages.submission(event_id, notes, await chart.course(), status=201)

    @routes.post("/distance", **openapi.SUBMIT)
    @routes.post("/", include_in_schema=False)
    async def submit(request: Request) -> Response:
        media = media_type(request.headers)
        if media == JSON:
            return await take_json(request)
        if media in FORMS:
            return await take_form(request)
        raise Refusal(415, f"Send {JSON}, or a form: {' or '.join(sorted(FORMS))}.")

    return routes


def _accepted(status: int, event_id: str) -> Response:
    place = f"/submissions/{event_id}"
    return JSONResponse({"id": event_id, "status": place}, status, {"location": place, "cache-control": "no-store"})


def _parse(body: bytes) -> Any:
    """JSON as it was sent. NaN and infinities pass, for validation to name the field they stand in."""
    try:
        return json.loads(decode(body))
    except RecursionError:
        raise Refusal(400, "The body is not JSON that can be read: nested too deeply.") from None
    except json.JSONDecodeError as cause:
        raise Refusal(400, f"The body is not JSON: {cause.msg}, line {cause.lineno}, column {cause.colno}.") from None
    except ValueError:
        raise Refusal(
            400, "The body is not JSON that can be read: not UTF-8, or a number of too many digits."
        ) from None


def _validate(fields: Any, wrong: Faults = ()) -> Submission:
    """The submission in these fields. Raises Refusal with each field's fault, `wrong` among them."""
    found = [dict(item) for item in wrong]
    if isinstance(fields, Mapping):
        found += [fault(name, "is not a field of a submission") for name in fields if name not in _FIELDS]
    try:
        submission = Submission.model_validate(fields)
    except ValidationError as cause:
        named = {item["field"] for item in found}
        found += [item for item in faults(cause) if item["field"] not in named]
    if found:
        raise invalid(found)
    return submission
