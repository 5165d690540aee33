"""`/ops`, served only with OPS_TOKEN: operators see the stages and the history of one event, pause stages, and replay
or drop dead letters.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from gateway.event_history import EventHistory, read_history
from gateway.message_stream import MessageStreams
from gateway.operators import Operators
from gateway.overview import MOST_LETTERS, overview
from gateway.pages import Pages
from gateway.refusal import Refusal, wants_page
from gateway.stream import event_stream
from milepost.errors import EventError
from milepost.events.attributes import check_required
from milepost.journal import Journal, StageNotServed, keys
from milepost.journal.models import entries_by_channel, is_entry

PAGE = 20
"""Dead letters read from Redis at a time. Each may have a megabyte."""

_COUNT = re.compile(r"[0-9]{1,4}")

DeadLetterId = Annotated[str, Form()]
"""The form's field `entry`: the id of a dead letter, or `all`."""

LetterAction = Callable[[str, list[str]], Awaitable[int]]

UNCACHED = {"cache-control": "no-store"}


@dataclass(frozen=True)
class Operations:
    """The objects that the routes of /ops use."""

    journal: Journal
    operators: Operators
    streams: MessageStreams
    pages: Pages


def router(ops: Operations) -> APIRouter:
    """Make the routes: the page, its figures as JSON, the history of an event, the live messages, and the actions."""
    routes = APIRouter(prefix="/ops", dependencies=[Depends(ops.operators.admit)], include_in_schema=False)

    @routes.api_route("", methods=["GET", "HEAD"])
    async def show(request: Request) -> Response:
        shown = await overview(ops.journal)
        return ops.pages.ops(shown, csrf_token=ops.operators.csrf_token, notice=_notice(request.query_params))

    @routes.api_route(".json", methods=["GET", "HEAD"])
    async def as_json() -> Response:
        shown = await overview(ops.journal, letters=False)
        totals = {"backlog": shown.backlog, "leading": shown.leading, "dead": shown.dead}
        return JSONResponse({**totals, "stages": [row.as_json() for row in shown.rows]}, headers=UNCACHED)

    async def opened() -> AsyncIterator[AsyncIterator[bytes]]:
        with ops.streams.open() as lines:
            yield lines

    @routes.api_route("/messages", methods=["GET", "HEAD"])
    async def messages(request: Request, lines: Annotated[AsyncIterator[bytes], Depends(opened)]) -> Response:
        return event_stream(request, lines)

    own_form = [Depends(ops.operators.check_form)]

    async def act(request: Request, stage: str, entry: str, step: LetterAction, done: str) -> Response:
        if entry != "all" and not is_entry(entry):
            raise Refusal(422, "entry must be that of a dead letter, or all. Nothing was done.")
        try:
            count = await _replay_or_drop(ops.journal, stage, entry, step)
        except (StageNotServed, ValueError) as fault:
            detail = f"Nothing was {done}: {fault}."
            if not wants_page(request.headers):
                raise Refusal(409, detail) from None
            shown = await overview(ops.journal)
            return ops.pages.ops(shown, csrf_token=ops.operators.csrf_token, notice=detail, status=409)
        if not wants_page(request.headers):
            return JSONResponse({done: count}, headers=UNCACHED)
        # Another page, which can be reloaded without repeating the action.
        return RedirectResponse(f"/ops?{urlencode({'done': done, 'count': count})}", 303, UNCACHED)

    @routes.post("/{stage}/replay", dependencies=own_form)
    async def replay(request: Request, stage: str, entry: DeadLetterId = "") -> Response:
        return await act(request, stage, entry, ops.journal.admin.replay, "replayed")

    @routes.post("/{stage}/drop", dependencies=own_form)
    async def drop(request: Request, stage: str, entry: DeadLetterId = "") -> Response:
        return await act(request, stage, entry, ops.journal.admin.drop, "dropped")

    _add_pauses(routes, ops)
    _add_histories(routes, ops)
    return routes


def _add_histories(routes: APIRouter, ops: Operations) -> None:
    """Add the history of one event, as a page and as JSON. Both only read."""

    async def history_of(event_id: str) -> EventHistory:
        try:
            check_required("id", event_id)
        except EventError as fault:
            raise Refusal(422, f"No event can have this id. {fault}.") from None
        history = await read_history(ops.journal, event_id)
        bare = event_id.strip()  # blanks may be part of an id, or come with a paste
        if history.state == "unknown" and bare not in {"", event_id}:
            return await read_history(ops.journal, bare)
        return history

    @routes.api_route("/event", methods=["GET", "HEAD"])
    async def show_history(id: str = "") -> Response:
        if not id.strip():
            return ops.pages.event_history(EventHistory(id="", status_known=False))  # the form alone
        history = await history_of(id)
        return ops.pages.event_history(history, status=404 if history.state == "unknown" else 200)

    @routes.api_route("/event.json", methods=["GET", "HEAD"])
    async def history_as_json(response: Response, id: str = "") -> EventHistory:
        history = await history_of(id)
        if history.state == "unknown":
            raise Refusal(404, f"No status has this id, and none of {history.events_searched} waiting events.")
        response.headers.update(UNCACHED)
        return history


def _add_pauses(routes: APIRouter, ops: Operations) -> None:
    """Add the actions that pause and resume a stage."""
    own_form = [Depends(ops.operators.check_form)]

    async def switch(request: Request, step: Awaitable[bool], done: str) -> Response:
        try:
            changed = await step
        except LookupError:
            raise Refusal(404, "No stage is called that. Nothing was done.") from None
        if not wants_page(request.headers):
            return JSONResponse({done: changed}, headers=UNCACHED)
        return RedirectResponse(f"/ops?{urlencode({'done': done})}", 303, UNCACHED)

    @routes.post("/{stage}/pause", dependencies=own_form)
    async def pause(request: Request, stage: str) -> Response:
        return await switch(request, ops.journal.admin.pause(stage), "paused")

    @routes.post("/{stage}/resume", dependencies=own_form)
    async def resume(request: Request, stage: str) -> Response:
        return await switch(request, ops.journal.admin.resume(stage), "resumed")


async def _replay_or_drop(journal: Journal, stage: str, entry: str, step: LetterAction) -> int:
    """Replay or drop one dead letter, or the oldest MOST_LETTERS. Returns how many.

    It counts them first, because a replayed one may be dead again at once. Raises StageNotServed or ValueError if
    nothing was done.
    """
    if entry != "all":
        return await step(stage, [entry])
    left = min(MOST_LETTERS, await journal.ask(journal.redis.xlen(keys.dead(stage))))
    count, start, not_served = 0, "-", None
    while left and (letters := await journal.admin.dead_letters(stage, start=start, count=min(PAGE, left))):
        left -= len(letters)
        start = f"({letters[-1].entry}"
        for entries in entries_by_channel(letters):
            try:
                count += await step(stage, entries)
            except StageNotServed as fault:
                not_served = fault
    if not_served and not count:
        raise not_served
    return count  # the page shows the rest, and the next request is told why


def _notice(asked: Mapping[str, str]) -> str:
    """Describe the action that redirected to this page. The query may be anyone's, so only known words are shown."""
    done, count = asked.get("done", ""), asked.get("count", "")
    if done in {"paused", "resumed"}:
        return f"The stage is {done}."
    return f"{_letters(int(count))} {done}." if done in {"replayed", "dropped"} and _COUNT.fullmatch(count) else ""


def _letters(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count:,} dead letters"
