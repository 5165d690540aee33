"""/ops: how the stages do, for operators. There is none unless OPS_TOKEN is set; it talks to Redis alone."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from gateway.following import event_stream
from gateway.operators import Operators
from gateway.overview import MOST_SETTLED, overview
from gateway.pages import Pages
from gateway.refusal import Refusal, wants_page
from gateway.tail import Tails
from milepost.journal import Journal, StageNotServed, keys

PAGE = 20
"""Dead letters looked at in one step: each may have a megabyte."""

MOST_FIELDS = 8

_ENTRY = re.compile(r"[0-9]{1,20}-[0-9]{1,20}|all")
_COUNT = re.compile(r"[0-9]{1,4}")

Step = Callable[[str, list[str]], Awaitable[int]]

UNCACHED = {"cache-control": "no-store"}


@dataclass(frozen=True)
class Desk:
    """What operators work with."""

    journal: Journal
    operators: Operators
    tails: Tails
    pages: Pages


def router(desk: Desk) -> APIRouter:
    """The page, the same as JSON, the tail, and the buttons."""
    routes = APIRouter(prefix="/ops", dependencies=[Depends(desk.operators.admit)], include_in_schema=False)

    @routes.api_route("", methods=["GET", "HEAD"])
    async def show(request: Request) -> Response:
        shown = await overview(desk.journal)
        return desk.pages.ops(shown, seal=desk.operators.seal, notice=_notice(request.query_params))

    @routes.api_route(".json", methods=["GET", "HEAD"])
    async def as_json() -> Response:
        shown = await overview(desk.journal, letters=False)
        told = {"backlog": shown.backlog, "leading": shown.leading, "dead": shown.dead}
        return JSONResponse({**told, "stages": [row.as_json() for row in shown.rows]}, headers=UNCACHED)

    async def tailing() -> AsyncIterator[AsyncIterator[bytes]]:
        with desk.tails.tail() as lines:
            yield lines

    @routes.api_route("/tail", methods=["GET", "HEAD"])
    async def tail(request: Request, lines: Annotated[AsyncIterator[bytes], Depends(tailing)]) -> Response:
        return event_stream(request, lines)

    async def settle(request: Request, stage: str, step: Step, done: str) -> Response:
        async with request.form(max_fields=MOST_FIELDS, max_files=0) as form:
            entry, seal = str(form.get("entry", "")), str(form.get("seal", ""))
        desk.operators.check_seal(request, seal)
        if not _ENTRY.fullmatch(entry):
            raise Refusal(422, "entry must be that of a dead letter, or all. Nothing was done.")
        try:
            count = await _settle(desk.journal, stage, entry, step)
        except (StageNotServed, ValueError) as fault:
            detail = f"Nothing was {done}: {fault}."
            if not wants_page(request.headers):
                raise Refusal(409, detail) from None
            shown = await overview(desk.journal)
            return desk.pages.ops(shown, seal=desk.operators.seal, notice=detail, status=409)
        if not wants_page(request.headers):
            return JSONResponse({done: count}, headers=UNCACHED)
        # A page of its own, which can be reloaded without doing it again.
        return RedirectResponse(f"/ops?{urlencode({'done': done, 'count': count})}", 303, UNCACHED)

    @routes.post("/{stage}/replay")
    async def replay(request: Request, stage: str) -> Response:
        return await settle(request, stage, desk.journal.admin.replay, "replayed")

    @routes.post("/{stage}/drop")
    async def drop(request: Request, stage: str) -> Response:
        return await settle(request, stage, desk.journal.admin.drop, "dropped")

    return routes


async def _settle(journal: Journal, stage: str, entry: str, step: Step) -> int:
    """How many there were. All: the oldest of those that are there now; one that is replayed may come back at once.

    Raises StageNotServed, ValueError: then nothing was done.
    """
    if entry != "all":
        return await step(stage, [entry])
    left = min(MOST_SETTLED, await journal.ask(journal.redis.xlen(keys.dead(stage))))
    settled, start = 0, "-"
    while left and (letters := await journal.admin.dead_letters(stage, start=start, count=min(PAGE, left))):
        left -= len(letters)
        start = f"({letters[-1].entry}"
        try:
            settled += await step(stage, [letter.entry for letter in letters])
        except StageNotServed:
            if not settled:
                raise
            break  # the page shows what is left, and whoever asks again is told why
    return settled


def _notice(asked: Mapping[str, str]) -> str:
    """What was done before this page was asked for, in words of ours."""
    done, count = asked.get("done", ""), asked.get("count", "")
    return f"{_letters(int(count))} {done}." if done in {"replayed", "dropped"} and _COUNT.fullmatch(count) else ""


def _letters(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count:,} dead letters"
