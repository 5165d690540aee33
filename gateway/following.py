"""The status of a submission: as JSON, as a page, and live as server-sent events."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.requests import Request
from starlette.responses import Response

from gateway.course import Course, CourseReader
from gateway.identity import canonical_id
from gateway.models import (
    EXAMPLE_ID,
    EXAMPLE_PLACE,
    PAGE,
    UNAVAILABLE,
    ReachedNow,
    SubmissionStatus,
    code_samples,
    problem,
)
from gateway.notifier import Notifier, too_many_of_client, too_many_watchers
from gateway.pages import Pages
from gateway.parts import PartsReader, SplitProgress, over
from gateway.rate import client_of
from gateway.refusal import JSON, unknown_submission, wants_page
from milepost.errors import JournalUnavailable
from milepost.events.strict_json import dumps
from milepost.graph import Graph
from milepost.journal import GAVE_UP, PARTS, Journal, Note

FIRST_LOOK = 0.3
"""Seconds without a message after which it is read whether the next stage is starting."""

LOOK_EVERY = 2.0
"""Seconds after which the status is read without a message: a stage that gives up publishes none."""

PACE = 0.2
"""Seconds between two looks at the parts of a submission, however many of them move on."""

BEAT = 15.0
"""Seconds without an event after which a comment is sent, so that no proxy closes a quiet stream."""

LONGEST = 900.0
"""Seconds after which a stream ends. A browser then connects again, and continues where it was."""

RETRY = 2000
"""Milliseconds that a browser waits before it connects again."""


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
    "responses": {200: {"content": {JSON: {"example": _EXAMPLE_STATUS}, **PAGE}}, 404: UNKNOWN, 503: UNAVAILABLE},
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


@dataclass(frozen=True)
class Tracker:
    """Gives the routes of a submission its status, its course, and a signal when the status may have changed."""

    journal: Journal
    course: CourseReader
    notifier: Notifier
    graph: Graph

    async def notes(self, event_id: str) -> dict[str, Note]:
        """Return the channels that the submission has reached, oldest first. Raises Refusal: 404."""
        notes = await self.journal.status(event_id)
        if not notes:
            raise unknown_submission()
        return notes

    async def starting(self, reached: Mapping[str, Note], course: Course) -> Sequence[str]:
        """Return the channels to come whose stage is starting; none while Redis is away."""
        if course.is_over(reached):
            return []
        emitters = {channel: self.graph.emitters(channel) for channel in course.ahead(reached)}
        try:
            starting = await self.journal.wake_ups.starting({stage for stages in emitters.values() for stage in stages})
        except JournalUnavailable:
            return []
        return [channel for channel, stages in emitters.items() if not starting.isdisjoint(stages)]

    async def course_of(self, event_id: str, notes: Mapping[str, Note]) -> Course:
        """Return the course of a submission, or of a part, which begins on the first channel that it has reached."""
        course = await self.course.course()
        if "/" not in event_id:
            return course
        return course.beginning(next((name for name in notes if not name.startswith((GAVE_UP, PARTS))), ""))


@dataclass(frozen=True)
class Watch:
    """One visitor who watches one submission; `changed` is set when its status may have changed."""

    event_id: str
    notes: dict[str, Note]
    changed: asyncio.Event


def router(tracker: Tracker, pages: Pages) -> APIRouter:
    """`GET /submissions/{id}` and `GET /submissions/{id}/events`."""
    routes = APIRouter()

    async def watching(request: Request, sent: SubmissionId) -> AsyncIterator[Watch]:
        event_id = _id(sent)
        with tracker.notifier.watch(
            event_id, client_of(request)
        ) as changed:  # first, so that nothing falls between this and the reading
            yield Watch(event_id, await tracker.notes(event_id), changed)

    @routes.head("/submissions/{id:path}/events", include_in_schema=False)  # noqa: FAST003
    @routes.get("/submissions/{id:path}/events", **WATCH)
    async def watch(
        request: Request,
        watch: Annotated[Watch, Depends(watching)],
        last_event_id: LastEventId = "",
    ) -> Response:
        """Server-sent events: each channel it has reached and each it reaches from now on, once, with the time and the
        data. The last says so, and ends the stream. A stage that gives up shows as `dead:` and its name, with the
        reason. An event's id names all that you have by then: ask again with it as Last-Event-ID and you miss nothing
        and get nothing twice. Comments keep a quiet stream alive. Every stream ends after 15 minutes or when the
        gateway stops: ask again. An event named `starting` has the channels to come whose stage was at zero and is
        starting, whenever they change. One client has 20 streams at a time unless STREAM_LIMIT says otherwise; a client
        that is refused one can follow the submission instead.
        """
        seen = [name for name in last_event_id.split(",") if {name, name.partition("=")[0]} & watch.notes.keys()]
        course = await tracker.course_of(watch.event_id, watch.notes)
        parts = PartsReader(tracker.journal)
        splits = await parts.read(watch.event_id, watch.notes, course)
        if {*_names(watch.notes, splits)} <= {*seen} and course.is_over(watch.notes, over(splits)):
            return Response(status_code=204)  # which tells a browser to ask no more
        return event_stream(request, _events(tracker, watch, seen, parts))

    @routes.head("/submissions/{id:path}", include_in_schema=False)  # noqa: FAST003 - SubmissionId has the alias
    @routes.get("/submissions/{id:path}", **FOLLOW)
    async def follow(request: Request, sent: SubmissionId) -> Response:
        """Which channels it has reached so far. Forgotten about an hour after the last of them. Clients that prefer
        text/html get a page.
        """
        event_id = _id(sent)
        notes = await tracker.notes(event_id)
        course = await tracker.course_of(event_id, notes)
        splits = await PartsReader(tracker.journal).read(event_id, notes, course)
        starting = await tracker.starting(notes, course)
        if wants_page(request.headers):
            return pages.submission(event_id, notes, course, starting, splits)
        reached = [_as_json(channel, note) for channel, note in notes.items() if not channel.startswith(PARTS)]
        is_over = course.is_over(notes, over(splits))
        status = {"id": event_id, "over": is_over, "starting": starting, "channels": reached}
        if splits:
            status["splits"] = [asdict(split) for split in splits]
        # In ASCII, because a message of another program may have characters that UTF-8 cannot hold.
        text = dumps(status)
        return Response(text, media_type=JSON, headers={"cache-control": "no-store", "vary": "accept"})

    return routes


def event_stream(request: Request, events: AsyncIterator[bytes]) -> Response:
    """Answer with these server-sent events, or to HEAD without them."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type=EventSourceResponse.media_type)
    return EventSourceResponse(events, headers=headers)


async def _events(tracker: Tracker, watch: Watch, seen: list[str], parts: PartsReader) -> AsyncIterator[bytes]:
    """Yield the channels that were reached and are not in `seen`, then each that is reached, until no more can be. An
    event's id names all channels that its reader has, so a reconnect needs no clock and no memory of ours. A stage that
    has made parts is among the names with the number of parts that have ended.
    """
    began = sent_at = time.monotonic()
    notes = watch.notes
    starting: Sequence[str] = []
    within = FIRST_LOOK
    yield format_sse_event(retry=RETRY)
    while True:
        course = await tracker.course_of(watch.event_id, notes)
        try:
            splits = await parts.read(watch.event_id, notes, course)
        except JournalUnavailable:
            splits = []  # the notifier has logged it; nothing is over until they are read
        by_name = {split.name: split for split in splits}
        told = {name for name in seen if name not in by_name and not name.startswith(PARTS)}
        ended = {split.stage: split.is_over for name, split in by_name.items() if name in seen}
        for name in _names(notes, splits):
            if name in seen:
                continue
            split = by_name.get(name)
            if split:
                ended[split.stage] = split.is_over
                seen = [one for one in seen if one.partition("=")[0] != f"{PARTS}{split.stage}"]
                status = _split_as_json(split, notes[f"{PARTS}{split.stage}"])
            else:
                told.add(name)
                status = _as_json(name, notes[name])
            seen.append(name)
            sent_at = time.monotonic()
            yield format_sse_event(data_str=dumps({**status, "last": course.is_over(told, ended)}), id=",".join(seen))
        if course.is_over(told, ended):
            return
        changed = await _wait(watch.changed, within=within)
        within = FIRST_LOOK if changed else LOOK_EVERY
        if splits:
            await asyncio.sleep(PACE)
        now = time.monotonic()
        if tracker.notifier.closed or now - began > LONGEST:
            return
        if now - sent_at > BEAT:
            sent_at = now
            yield KEEPALIVE_COMMENT
        try:
            notes = await tracker.journal.status(watch.event_id)
        except JournalUnavailable:
            continue  # the notifier has logged it; read again after LOOK_EVERY
        if not changed and starting != (found := await tracker.starting(notes, course)):
            starting = found
            yield format_sse_event(event="starting", data_str=dumps({"channels": starting}))


async def _wait(changed: asyncio.Event, *, within: float) -> bool:
    """Wait until the status may have changed. False if it has not in so many seconds."""
    try:
        async with asyncio.timeout(within):
            await changed.wait()
    except TimeoutError:
        return False
    changed.clear()
    return True


def _id(sent: str) -> str:
    """Return the id as Milepost writes it. Raises Refusal: 404."""
    event_id = canonical_id(sent)
    if event_id is None:
        raise unknown_submission()
    return event_id


def _names(notes: Mapping[str, Note], splits: Sequence[SplitProgress]) -> list[str]:
    """Return what a reader of a live stream may have: the channels, and each split with its ended parts."""
    of_stage = {f"{PARTS}{split.stage}": split.name for split in splits}
    return [of_stage.get(name, name) for name in notes if name in of_stage or not name.startswith(PARTS)]


def _split_as_json(split: SplitProgress, note: Note) -> Mapping[str, Any]:
    return {**_as_json(f"{PARTS}{split.stage}", note), "data": {"parts": split.parts, "ended": split.ended}}


def _as_json(channel: str, note: Note) -> Mapping[str, Any]:
    at = note.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"channel": channel, "time": at, "data": note.data}
