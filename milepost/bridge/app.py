"""The bridge's HTTP face: the durable way in for any CloudEvents sender, and what probes and scrapers ask."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from milepost.bridge.bridge import Bridge
from milepost.bridge.settings import BROKER
from milepost.errors import BacklogFull, EventError, JournalUnavailable
from milepost.event import Event
from milepost.http import TooLarge, problem, read_body
from milepost.journal import Letter

RETRY_AFTER = 1
"""Seconds after which a sender that met 503 may try again."""

Step = Callable[[Event], Awaitable[object]]


def create_app(bridge: Bridge, *, failed: Callable[[], None]) -> Starlette:
    """The ASGI application of one bridge, which it starts and stops."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        bridge.start(failed=failed)
        try:
            yield
        finally:
            await bridge.stop()

    async def take(request: Request, door: str, step: Step) -> Response:
        response = await _take(request, step)
        bridge.metrics.accepted.labels(door, str(response.status_code)).inc()
        return response

    async def publish(request: Request) -> Response:
        return await take(request, "events", bridge.journal.publish)

    async def replies(request: Request) -> Response:
        return await take(request, "replies", bridge.upkeep.announce)

    async def dead(request: Request) -> Response:
        stage = request.path_params["stage"]

        async def bury(event: Event) -> None:
            await bridge.upkeep.bury(stage, *_given_up(event), only=BROKER)

        return await take(request, "dead", bury)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if not bridge.ready:
            return problem(503, "Not ready", "the routes are not served yet", retry_after=RETRY_AFTER)
        try:
            await bridge.journal.ping()
        except JournalUnavailable as fault:
            return problem(503, "Not ready", str(fault), retry_after=RETRY_AFTER)
        return PlainTextResponse("ready\n")

    async def metrics(_: Request) -> Response:
        text = await asyncio.to_thread(generate_latest, bridge.metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/", publish, methods=["POST"]),
            Route("/replies", replies, methods=["POST"]),
            Route("/dead/{stage}", dead, methods=["POST"]),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
        ],
        lifespan=lifespan,
    )


async def _take(request: Request, step: Step) -> Response:
    try:
        await step(Event.from_http(request.headers, await read_body(request)))
    except TooLarge as fault:
        return problem(413, "Too large", str(fault))
    except EventError as fault:
        return problem(400, "Not a CloudEvent", str(fault))
    except (JournalUnavailable, BacklogFull) as fault:
        return problem(503, "Unavailable", str(fault), retry_after=RETRY_AFTER)
    return Response(status_code=202)


def _given_up(event: Event) -> tuple[Event, Letter]:
    """The event without what Knative put on it, and why its Broker gave up (Eventing, "Event delivery")."""
    code, data = str(event.extensions.get("knativeerrorcode", "")), event.extensions.get("knativeerrordata")
    status = int(code) if code.isascii() and code.isdigit() else None
    reason = "the Broker gave up" if status is None else f"the Broker gave up: HTTP {status}"
    if data:
        reason += f", {str(data)[:200]}"
    own = {name: value for name, value in event.extensions.items() if not name.startswith("knative")}
    return replace(event, extensions=own), Letter(event.id, reason, status, 0, 0)
