"""The bridge's HTTP endpoints: its doors (events, a Broker's replies and dead letters), health and metrics."""

import codecs
import gc
import json
import logging
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from milepost.bridge.bridge import Bridge
from milepost.errors import BacklogFull, EventError, JournalUnavailable, TooSlow
from milepost.events.event import Event
from milepost.journal import Failure
from milepost.journal.models import check_data
from milepost.observe.logs import Fields
from milepost.server.http import problem, read_body, status_of
from milepost.server.protocol import freeze_heap

log = logging.getLogger("milepost.bridge")

GC_THRESHOLD = 20_000
"""New objects before the garbage collector runs, more than in other processes. Deliveries under way are many objects,
and few are garbage. With 5,000 and 64 stages the collector took a quarter of the CPU.
"""

RETRY_AFTER = 1
"""Seconds after which a sender that met 503 may try again."""

_UTF8 = codecs.getincrementaldecoder("utf-8")
"""Decodes a text whose last character may be cut in the middle."""
_DETAIL = re.compile(r'"detail"\s*:\s*"((?:[^"\\]|\\.)*)')
"""The detail of a problem (RFC 9457), in JSON that may be cut."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Handler = Callable[[Event], Awaitable[object]]


def create_app(bridge: Bridge, *, failed: Callable[[], None]) -> Starlette:
    """Return the ASGI application of a bridge. It starts and stops the bridge. `failed`: see `Bridge.start`."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        freeze_heap()  # also where no connection, which does it otherwise, ever comes
        gc.set_threshold(GC_THRESHOLD)
        bridge.start(failed=failed)
        try:
            yield
        finally:
            await bridge.stop()

    endpoints = _Endpoints(bridge)
    app = Starlette(
        routes=[
            Route("/", endpoints.publish, methods=["POST"]),
            *([] if bridge.direct else endpoints.for_a_broker()),
            Route("/healthz", endpoints.healthz),
            Route("/readyz", endpoints.readyz),
            Route("/metrics", endpoints.metrics),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: _no_route},  # type: ignore[dict-item]
    )
    app.router.redirect_slashes = False  # behind TLS it would redirect to http://
    return app


async def _no_route(_: Request, fault: HTTPException) -> Response:
    """Answer a request for another path or method."""
    response = problem(fault.status_code, fault.detail, f"{fault.detail}: POST / takes a CloudEvent")
    response.headers.update(fault.headers or {})
    return response


class _Endpoints:
    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def for_a_broker(self) -> list[Route]:
        """Return the doors of broker mode, which announce events or bury them, and journal none."""
        return [
            Route("/replies", self.replies, methods=["POST"]),
            Route("/dead/{stage}", self.dead, methods=["POST"]),
        ]

    async def publish(self, request: Request) -> Response:
        async def journal(event: Event) -> None:
            check_data(event, self._bridge.needs_data)
            await self._bridge.journal.publish(event)

        return await self._take(request, "events", journal)

    async def replies(self, request: Request) -> Response:
        return await self._take(request, "replies", self._bridge.broker_doors.announce)

    async def dead(self, request: Request) -> Response:
        stage = request.path_params["stage"]

        async def bury(event: Event) -> None:
            if stage not in self._bridge.stages:
                raise HTTPException(404, f"ROUTES names no stage {stage}")
            await self._bridge.broker_doors.bury_given_up(stage, *_given_up(event))
            self._bridge.metrics.of_stage(stage).dead_letters += 1

        return await self._take(request, "dead", bury)

    async def _take(self, request: Request, door: str, step: Handler) -> Response:
        response = await _take(request, step)
        self._bridge.metrics.accepted.labels(door, str(response.status_code)).inc()
        return response

    async def healthz(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, _: Request) -> Response:
        if not self._bridge.ready:
            return problem(503, "Not ready", "the routes are not served yet", retry_after=RETRY_AFTER)
        try:
            await self._bridge.journal.check_writable()
        except JournalUnavailable as fault:
            return _unavailable("Not ready", "ready", fault)
        return PlainTextResponse("ready\n")

    async def metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._bridge.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _take(request: Request, step: Handler) -> Response:
    try:
        await step(Event.from_http(request.headers, await read_body(request)))
    except (EventError, TooSlow) as fault:
        return problem(*status_of(fault), str(fault))
    except HTTPException as fault:
        return problem(fault.status_code, "Not found", fault.detail)
    except BacklogFull as fault:
        return problem(503, "Unavailable", str(fault), retry_after=RETRY_AFTER)
    except JournalUnavailable as fault:
        return _unavailable("Unavailable", "accepted", fault)
    return Response(status_code=202)


def _unavailable(title: str, missed: str, fault: JournalUnavailable) -> Response:
    """Log why Redis does not answer, and tell the sender no more than that: the reason names hosts."""
    log.warning(Fields(outcome=f"not-{missed}", reason=str(fault)))
    return problem(503, title, "the journal does not answer, or takes nothing", retry_after=RETRY_AFTER)


def _given_up(event: Event) -> tuple[Event, Failure]:
    """Return the event of a dead letter of the Broker, and why the Broker gave up.

    The attributes that Knative added (`knativeerrorcode`, `knativeerrordata`, `knativeerrordest`) are removed.
    """
    code, data = str(event.extensions.get("knativeerrorcode", "")), event.extensions.get("knativeerrordata")
    status = int(code) if re.fullmatch("[1-5][0-9][0-9]", code) else None
    reason = "the Broker gave up" if status is None else f"the Broker gave up: HTTP {status}"
    if text := _response_text(str(data or "")):
        reason += f": {text}"
    own = {name: value for name, value in event.extensions.items() if not name.startswith("knative")}
    return replace(event, extensions=own), Failure(reason, status, 0, 0)


def _response_text(data: str) -> str:
    """Return the receiver's response in `knativeerrordata` as text: a problem's detail, else the whole of it.

    Eventing 1.8 and newer put the response body there as base64, cut at 1,024 characters; older ones put plain text.
    """
    text = data
    try:
        decoded = _UTF8().decode(b64decode(data, validate=True))
    except ValueError:
        decoded = ""
    if decoded and all(letter.isprintable() or letter.isspace() for letter in decoded):
        text = decoded
    if found := _DETAIL.search(text) if text.lstrip().startswith("{") else None:
        with suppress(ValueError):
            text = json.loads(f'"{found[1]}"')
    return " ".join(_UNPRINTABLE.sub(" ", text).split())[:500].encode(errors="replace").decode()
