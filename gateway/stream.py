"""Server-sent events: of a submission, each channel that it reaches, until no more can come."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.requests import Request
from starlette.responses import Response

from gateway.notifier import Notifier
from gateway.status import Status, StatusReader
from milepost.errors import JournalUnavailable
from milepost.events.strict_json import dumps
from milepost.journal import PARTS, Note

FIRST_LOOK = 0.3
"""Seconds without a message after which it is read whether the next stage is starting."""

LOOK_EVERY = 2.0
"""Seconds after which the status is read without a message: a stage that gives up publishes none."""

PACE = 0.2
"""Seconds between two looks at the parts of a submission, however many of them move on."""

KEEPALIVE = 15.0
"""Seconds without an event after which a comment is sent, so that no proxy closes a quiet stream."""

LONGEST = 900.0
"""Seconds after which a stream ends. A browser then connects again, and continues where it was."""

RETRY = 2000
"""Milliseconds that a browser waits before it connects again."""


_PLAIN = "/:="
"""Characters of an event's id that are not percent-encoded, besides letters, digits and `_.-~`."""


@dataclass(frozen=True)
class Watch:
    """One visitor who watches one submission; `changed` is set when its status may have changed."""

    reader: StatusReader
    status: Status
    changed: asyncio.Event


def event_stream(request: Request, events: AsyncIterator[bytes]) -> Response:
    """Answer with these server-sent events, or to HEAD without them."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type=EventSourceResponse.media_type)
    return EventSourceResponse(events, headers=headers)


async def status_events(notifier: Notifier, watch: Watch, seen: list[str]) -> AsyncIterator[bytes]:
    """Yield the channels that were reached and are not in `seen`, then each that is reached, until no more can be. An
    event's id names all channels that its reader has, so a reconnect needs no clock and no memory of ours. A stage that
    has made parts is among the names with the number of parts that have ended.
    """
    began = sent_at = time.monotonic()
    status = watch.status
    starting: Collection[str] = ()
    within = FIRST_LOOK
    yield format_sse_event(retry=RETRY)
    while True:
        for name, reached in shown(status).items():
            if name in seen:
                continue
            channel = reached["channel"]
            seen = [*(one for one in seen if name == channel or one.partition("=")[0] != channel), name]
            sent_at = time.monotonic()
            step = {**reached, "last": _as_seen(status, seen).is_over}
            yield format_sse_event(data_str=dumps(step), id=",".join(quote(one, _PLAIN) for one in seen))
        if _as_seen(status, seen).is_over:
            return
        changed = await _wait(watch.changed, within=within)
        within = FIRST_LOOK if changed else LOOK_EVERY
        if status.splits:
            await asyncio.sleep(PACE)
        now = time.monotonic()
        if notifier.closed or now - began > LONGEST:
            return
        if now - sent_at > KEEPALIVE:
            sent_at = now
            yield KEEPALIVE_COMMENT
        try:
            status = await watch.reader.read()
        except JournalUnavailable:
            continue  # the notifier has logged it; read again after LOOK_EVERY
        if not changed and starting != (found := (await watch.reader.with_starting(status)).starting):
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


def shown(status: Status) -> dict[str, Mapping[str, Any]]:
    """Return the steps of a status, oldest first, as JSON: channels, the stage that gave it up, and splits.

    The keys are the names that `Last-Event-ID` has, there percent-encoded where a header, or the comma between them,
    demands it; that of a split says how many of its parts have ended.
    """
    splits = {f"{PARTS}{split.stage}": split for split in status.splits}
    found: dict[str, Mapping[str, Any]] = {}
    for name, note in status.notes.items():
        if split := splits.get(name):
            found[split.name] = {**_as_json(name, note), "data": {"parts": split.parts, "ended": split.ended}}
        elif not name.startswith(PARTS):
            found[name] = _as_json(name, note)
    return found


def _as_seen(status: Status, seen: Collection[str]) -> Status:
    """Return the part of a status that the reader of a stream has."""
    notes = {name: note for name, note in status.notes.items() if name in seen}
    return replace(status, notes=notes, splits=[split for split in status.splits if split.name in seen])


def _as_json(channel: str, note: Note) -> Mapping[str, Any]:
    at = note.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"channel": channel, "time": at, "data": note.data}
