"""Routes for an orchestrator and for Prometheus."""

from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.responses import Response

from gateway.metrics import GatewayMetrics
from gateway.models import UNAVAILABLE
from milepost.journal import Journal


def router(journal: Journal, metrics: GatewayMetrics) -> APIRouter:
    """`/healthz`: the process is alive. `/readyz`: a Redis primary answers and takes writes, too. `/metrics`."""
    routes = APIRouter()

    @routes.head("/healthz", include_in_schema=False)
    @routes.get("/healthz", summary="Is the process alive?", responses=_example("alive"))
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", summary="Can it take submissions?", responses={**_example("ready"), 503: UNAVAILABLE})
    async def readyz() -> dict[str, str]:
        await journal.check_writable()
        return {"status": "ready"}

    @routes.api_route("/metrics", methods=["GET", "HEAD"], include_in_schema=False)
    async def counted() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return routes


def _example(status: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": {"status": status}}}}}
