"""A submission followed: as JSON, as a page, and live as server-sent events."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.requests import Request
from starlette.responses import Response

from gateway import openapi
from gateway.client import client_of
from gateway.course import Chart
from gateway.identity import canonical_uuid
from gateway.listener import Listener
from gateway.pages import Pages
from gateway.refusal import JSON, Refusal, wants_page
from milepost.errors import JournalUnavailable
from milepost.events.strict_json import dumps
from milepost.journal import Journal, Note

LOOK_EVERY = 2.0
"""Seconds after which progress is read though nothing was heard: a stage that gives up says so nowhere else."""

BEAT = 15.0
"""Seconds of silence after which a comment goes out, so that nobody on the way takes the stream for dead."""

LONGEST = 900.0
"""Seconds of a stream's life. A browser then asks again, and goes on where it was."""

RETRY = 2000
"""Milliseconds that a browser waits before it asks again."""


@dataclass(frozen=True)
class Tracker:
    """Where submissions are, and who tells of news."""

    journal: Journal
    chart: Chart
    listener: Listener

    async def notes(self, event_id: str) -> dict[str, Note]:
        """What the submission has reached, oldest first. Raises Refusal: 404."""
        notes = await self.journal.status(event_id)
        if not notes:
            raise _unknown()
        return notes


@dataclass(frozen=True)
class Watch:
    """One visitor who watches one submission; `bell` is set when there may be news."""

    event_id: str
    notes: dict[str, Note]
    bell: asyncio.Event


def router(tracker: Tracker, pages: Pages) -> APIRouter:
    """`GET /submissions/{id}` and `GET /submissions/{id}/events`."""
    routes = APIRouter()

    async def watching(request: Request, sent: Annotated[str, openapi.ID]) -> AsyncIterator[Watch]:
        event_id = _id(sent)
        with tracker.listener.watch(
            event_id, client_of(request)
        ) as bell:  # first, so that nothing falls between this and the reading
            yield Watch(event_id, await tracker.notes(event_id), bell)

    @routes.head("/submissions/{id}", include_in_schema=False)  # noqa: FAST003 - openapi.ID has the alias
    @routes.get("/submissions/{id}", **openapi.FOLLOW)
    async def follow(request: Request, sent: Annotated[str, openapi.ID]) -> Response:
        event_id = _id(sent)
        notes = await tracker.notes(event_id)
        course = await tracker.chart.course()
        if wants_page(request.headers):
            return pages.submission(event_id, notes, course)
        reached = [_told(channel, note) for channel, note in notes.items()]
        # ASCII: what a foreign program published may hold characters that UTF-8 cannot.
        text = dumps({"id": event_id, "over": course.is_over(notes), "channels": reached})
        return Response(text, media_type=JSON, headers={"cache-control": "no-store", "vary": "accept"})

    @routes.head("/submissions/{id}/events", include_in_schema=False)  # noqa: FAST003
    @routes.get("/submissions/{id}/events", **openapi.WATCH)
    async def watch(
        request: Request,
        watch: Annotated[Watch, Depends(watching)],
        last_event_id: Annotated[str, Header(alias="Last-Event-ID", description=openapi.LAST_EVENT_ID)] = "",
    ) -> Response:
        seen = [name for name in last_event_id.split(",") if name in watch.notes]
        course = await tracker.chart.course()
        if len(seen) == len(watch.notes) and course.is_over(seen):
            return Response(status_code=204)  # which tells a browser to ask no more
        return event_stream(request, _events(tracker, watch, seen))

    return routes


def event_stream(request: Request, events: AsyncIterator[bytes]) -> Response:
    """Answer with these server-sent events, or to HEAD without them."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type=EventSourceResponse.media_type)
    return EventSourceResponse(events, headers=headers)


async def _events(tracker: Tracker, watch: Watch, seen: list[str]) -> AsyncIterator[bytes]:
    """What was reached and is not in `seen`, then what is reached from now on, until it is over. An event's id names
    all that its reader has by then, so a reconnect needs no clock and no memory of ours.
    """
    began = spoke = time.monotonic()
    notes = watch.notes
    yield format_sse_event(retry=RETRY)
    while True:
        course = await tracker.chart.course()
        for channel, note in notes.items():
            if channel in seen:
                continue
            seen.append(channel)
            spoke = time.monotonic()
            told = {**_told(channel, note), "last": course.is_over(seen)}
            yield format_sse_event(data_str=dumps(told), id=",".join(seen))
        if course.is_over(seen):
            return
        await _ring(watch.bell)
        now = time.monotonic()
        if tracker.listener.closed or now - began > LONGEST:
            return
        if now - spoke > BEAT:
            spoke = now
            yield KEEPALIVE_COMMENT
        try:
            notes = await tracker.journal.status(watch.event_id)
        except JournalUnavailable:
            continue  # the listener has logged it; asked again after LOOK_EVERY


async def _ring(bell: asyncio.Event) -> None:
    """Wait for the bell, or until it is time to look without it."""
    try:
        async with asyncio.timeout(LOOK_EVERY):
            await bell.wait()
    except TimeoutError:
        return
    bell.clear()


def _id(sent: str) -> str:
    """The id as Milepost writes it. Raises Refusal: 404."""
    event_id = canonical_uuid(sent)
    if event_id is None:
        raise _unknown()
    return event_id


def _unknown() -> Refusal:
    return Refusal(404, "No submission has this id, or it was forgotten by now.")


def _told(channel: str, note: Note) -> Mapping[str, Any]:
    at = note.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"channel": channel, "time": at, "data": note.data}
