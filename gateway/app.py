"""Assemble the gateway's ASGI application."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from gateway import channels, health, ops, status_routes, submissions
from gateway.body_limit import BodyLimit
from gateway.message_stream import MessageStreams
from gateway.metrics import GatewayMetrics, RequestMetrics
from gateway.models import ProblemDetails
from gateway.notifier import Notifier
from gateway.operators import WRONG_TRIES, Operators
from gateway.pages import STATIC, Pages
from gateway.rate import RateLimit
from gateway.refusal import JSON, Refusal, faults, invalid, unavailable, wants_page
from gateway.settings import GatewaySettings
from gateway.status import GraphReader
from gateway.wake import PageWakeUps
from milepost import __version__
from milepost.errors import BacklogFull, JournalUnavailable
from milepost.journal import Journal
from milepost.journal.connection import connect, end_tasks
from milepost.observe.logs import Fields
from milepost.server.http import problem

log = logging.getLogger("gateway")

REDIS_WITHIN = 2.0
"""Seconds for Redis to answer: visitors wait for it."""


def create_app(settings: GatewaySettings, journal: Journal | None = None) -> FastAPI:
    """Make the gateway's ASGI application. The caller closes a journal that it passes in."""
    own = journal is None
    journal = journal or Journal(connect(settings, answer_within=REDIS_WITHIN), settings)
    pages = Pages()
    graphs = GraphReader(journal)
    # A silent reconnect would hide that messages were missed.
    redis = connect(settings, answer_within=REDIS_WITHIN, retries=0)
    journal.failover.add(redis)
    notifier = Notifier(redis, graphs.channels, most_of_client=settings.stream_limit)
    wake_ups = PageWakeUps(settings.stages, journal.wake_ups)
    metrics = GatewayMetrics()
    rate = RateLimit(settings.rate_limit, journal.redis) if settings.rate_limit else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        listening = asyncio.create_task(notifier.run())
        async with journal.failover.running():
            yield
        await end_tasks([listening])
        await wake_ups.close()
        await redis.aclose()
        if own:
            await journal.close()
        log.info(Fields(outcome="stopped"))

    def refuse(headers: Headers, refusal: Refusal) -> Response:
        if not wants_page(headers):
            errors = [dict(fault) for fault in refusal.faults]
            detail, wait = refusal.detail, refusal.retry_after
            return problem(refusal.status, refusal.title, detail, errors=errors, retry_after=wait)
        return pages.refusal(refusal) if refusal.typed is None else pages.form(refusal)

    app = _Api(
        title="Milepost",
        version=__version__,
        description="How far is a place from the office? Submit it, and the answer comes by e-mail.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # behind TLS it would redirect to http://
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours: gateway/metrics.py, observe/traces.py
    )
    app.state.notifier = notifier
    app.add_middleware(BodyLimit, refuse=refuse)
    app.add_middleware(RequestMetrics, metrics=metrics)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, fault: HTTPException) -> Response:
        refusal = fault if isinstance(fault, Refusal) else Refusal(fault.status_code, _no_route(request, fault))
        response = refuse(request.headers, refusal)
        response.headers.update(_with_head(fault.headers or {}))
        return response

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, fault: RequestValidationError) -> Response:
        return refuse(request.headers, invalid(faults(fault.errors(), within=1)))

    @app.exception_handler(JournalUnavailable)
    @app.exception_handler(BacklogFull)
    async def journal_away(request: Request, fault: JournalUnavailable | BacklogFull) -> Response:
        return refuse(request.headers, unavailable(fault))

    @app.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> Response:
        return refuse(request.headers, Refusal(500, "The gateway failed at this; its log says why."))

    # First, because routes are tried in order and these are asked most. Not by include_router: FastAPI matches a
    # request twice with the routes of an included router.
    publisher = submissions.SubmissionPublisher(journal, rate)
    app.router.routes.extend(submissions.router(publisher, graphs, pages).routes)
    app.include_router(status_routes.router(journal, graphs, notifier, pages))

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        wake_ups.form_asked(request.method)
        return pages.form()

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs() -> Response:
        return pages.docs(app.openapi())

    app.include_router(channels.router(settings.stages, pages, version=app.version))

    if settings.ops_token:
        wrong = RateLimit(WRONG_TRIES, journal.redis, purpose="ops")
        app.include_router(
            ops.router(ops.Operations(journal, Operators(settings.ops_token, wrong), MessageStreams(notifier), pages)),
            include_in_schema=False,
        )
    app.include_router(health.router(journal, metrics))
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


class _Api(FastAPI):
    """FastAPI, whose description has problem details (RFC 9457) in place of FastAPI's own errors."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            api = super().openapi()
            for path in api["paths"].values():
                for operation in path.values():
                    described = operation["responses"].get("422", {}).get("content", {})
                    if JSON in described:  # added for a parameter that can be invalid: here that is no 422
                        del operation["responses"]["422"]
            schemas = api["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            problem_schema = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= {**problem_schema.pop("$defs"), ProblemDetails.__name__: problem_schema}
        return self.openapi_schema or {}


def _with_head(headers: Mapping[str, str]) -> dict[str, str]:
    """Name HEAD beside GET in `Allow`: some HEADs are routes of their own, which Starlette does not look for."""
    return {name: "GET, HEAD" if (name, value) == ("Allow", "GET") else value for name, value in headers.items()}


def _no_route(request: Request, fault: HTTPException) -> str:
    match fault.status_code:
        case 404:
            hint = " Leave out the slash at its end." if request.url.path.endswith("/") else ""
            return f"Nothing is at {request.url.path}.{hint}"
        case 405:
            return f"{request.url.path} does not take {request.method}."
        case _:
            return str(fault.detail)
