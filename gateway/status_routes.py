"""`GET /submissions/{id}` and its live stream: the status of a submission as JSON, as a page, and as it changes."""

from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Header, Path
from fastapi.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response

from gateway.identity import canonical_id
from gateway.models import (
    EXAMPLE_ID,
    EXAMPLE_PLACE,
    HTML,
    UNAVAILABLE,
    ReachedNow,
    SubmissionStatus,
    code_samples,
    problem,
)
from gateway.notifier import Notifier, too_many_of_client, too_many_watchers
from gateway.pages import Pages
from gateway.rate import client_of
from gateway.refusal import JSON, unknown_submission, wants_page
from gateway.status import GraphReader, Status, StatusReader, StatusReaders
from gateway.stream import Watch, event_stream, shown, status_events
from milepost.events.strict_json import dumps
from milepost.journal import Journal

SubmissionId = Annotated[
    str, Path(alias="id", description="as POST /distance answered it", openapi_examples={"id": {"value": EXAMPLE_ID}})
]

LastEventId = Annotated[
    str,
    Header(
        alias="Last-Event-ID",
        description="The id of the last event you have, as a browser sends it: you get all events after it.",
    ),
]

_EXAMPLE_STATUS = {
    "id": EXAMPLE_ID,
    "over": False,
    "starting": ["user:email"],
    "channels": [
        {"channel": "raw_input", "time": "2025-10-01T09:30:00.120Z", "data": EXAMPLE_PLACE},
        {
            "channel": "calculated_distance",
            "time": "2025-10-01T09:30:00.131Z",
            "data": {"email": "ada@example.org", "distance_from_velocity": 2216.0742916592476},
        },
    ],
}

_EXAMPLE_STREAM = """retry: 2000

data: {"channel":"email:sent","time":"2025-10-01T09:30:00.158Z","data":{"email":"ada@example.org",\
"distance_from_velocity":2216.0742916592476,"message":"You are 2216.0742916592476 miles from Velocity."},"last":true}
id: raw_input,calculated_distance,user:email,email:sent

"""

UNKNOWN = problem("Unknown, forgotten, or no UUID", unknown_submission())

FOLLOW: dict[str, Any] = {
    "summary": "Follow a submission",
    "response_model": SubmissionStatus,
    "response_description": "How far it has come",
    "responses": {200: {"content": {JSON: {"example": _EXAMPLE_STATUS}, **HTML}}, 404: UNKNOWN, 503: UNAVAILABLE},
    "openapi_extra": code_samples(Follow=f"curl http://127.0.0.1:8000/submissions/{EXAMPLE_ID}"),
}

WATCH: dict[str, Any] = {
    "summary": "Watch a submission",
    "response_class": Response,
    "response_description": "A stream of events",
    "responses": {
        200: {
            "content": {
                EventSourceResponse.media_type: {
                    "schema": {
                        "type": "string",
                        "description": "the data of each event, as JSON",
                        "contentMediaType": JSON,
                        "contentSchema": ReachedNow.model_json_schema(),
                    },
                    "example": _EXAMPLE_STREAM,
                }
            },
        },
        204: {"description": "It is over, and Last-Event-ID says that you have it all: do not ask again"},
        404: UNKNOWN,
        429: problem("Too many streams of one client", too_many_of_client(20)),
        503: problem("Redis is away, or too many are watching", too_many_watchers()),
    },
    "openapi_extra": code_samples(Watch=f"curl --no-buffer http://127.0.0.1:8000/submissions/{EXAMPLE_ID}/events"),
}


def router(journal: Journal, graphs: GraphReader, notifier: Notifier, pages: Pages) -> APIRouter:
    """Make both routes."""
    routes = APIRouter()
    readers = StatusReaders(journal, graphs)

    def reader_of(sent: str) -> tuple[str, StatusReader]:
        event_id = canonical_id(sent)
        if event_id is None:
            raise unknown_submission()
        return event_id, readers.of(event_id)

    async def watching(request: Request, sent: SubmissionId) -> AsyncIterator[Watch]:
        event_id, reader = reader_of(sent)
        # Watch first, so that no change comes between the reading and the watching.
        with notifier.watch(event_id, client_of(request)) as changed:
            yield Watch(reader, await _known(reader), changed)

    @routes.head("/submissions/{id:path}/events", include_in_schema=False)  # noqa: FAST003
    @routes.get("/submissions/{id:path}/events", **WATCH)
    async def watch(
        request: Request,
        watch: Annotated[Watch, Depends(watching)],
        last_event_id: LastEventId = "",
    ) -> Response:
        """Server-sent events: each channel it has reached and each it reaches from now on, once, with the time and the
        data. The last says so, and ends the stream. A stage that gives up shows as `dead:` and its name, with the
        reason, and one that takes the submission without an answer as `ended:` and its name. An event's id names all
        that you have by then: ask again with it as Last-Event-ID and you miss nothing and get nothing twice. Comments
        keep a quiet stream alive. Every stream ends after 15 minutes or when the gateway stops: ask again. An event
        named `starting` has the channels to come whose stage was at zero and is starting, whenever they change. One
        client has 20 streams at a time unless STREAM_LIMIT says otherwise; a client that is refused one can follow the
        submission instead.
        """
        notes = watch.status.notes
        names = map(unquote, last_event_id.split(","))
        seen = [name for name in names if {name, name.partition("=")[0]} & notes.keys()]
        if {*shown(watch.status)} <= {*seen} and watch.status.is_over:
            return Response(status_code=204)  # which tells a browser to ask no more
        return event_stream(request, status_events(notifier, watch, seen))

    @routes.head("/submissions/{id:path}", include_in_schema=False)  # noqa: FAST003 - SubmissionId has the alias
    @routes.get("/submissions/{id:path}", **FOLLOW)
    async def follow(request: Request, sent: SubmissionId) -> Response:
        """Which channels it has reached so far. Forgotten about an hour after the last of them. Clients that prefer
        text/html get a page.
        """
        event_id, reader = reader_of(sent)
        status = await reader.with_starting(await _known(reader))
        if wants_page(request.headers):
            return pages.submission(status)
        channels = [*shown(replace(status, splits=())).values()]
        body = {"id": event_id, "over": status.is_over, "starting": status.starting, "channels": channels}
        if status.splits:
            body["splits"] = [asdict(split) for split in status.splits]
        # In ASCII, because a message of another program may have characters that UTF-8 cannot hold.
        return Response(dumps(body), media_type=JSON, headers={"cache-control": "no-store", "vary": "accept"})

    return routes


async def _known(reader: StatusReader) -> Status:
    """Read a status. Raises Refusal: 404."""
    status = await reader.read()
    if not status.notes:
        raise unknown_submission()
    return status
