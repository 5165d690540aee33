"""What an orchestrator asks, and what Prometheus does."""

from fastapi import APIRouter
from starlette.responses import Response

from gateway import openapi
from gateway.metrics import Metrics
from milepost.exposition import CONTENT_TYPE
from milepost.journal import Journal


def router(journal: Journal, metrics: Metrics) -> APIRouter:
    """`/healthz`: the process is alive. `/readyz`: a Redis primary answers too. `/metrics`."""
    routes = APIRouter()

    @routes.head("/healthz", include_in_schema=False)
    @routes.get("/healthz", **openapi.HEALTH)
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", **openapi.READY)
    async def readyz() -> dict[str, str]:
        await journal.ping()
        return {"status": "ready"}

    @routes.api_route("/metrics", methods=["GET", "HEAD"], include_in_schema=False)
    async def counted() -> Response:
        return Response(metrics.registry.text(), media_type=CONTENT_TYPE)

    return routes
