"""What an orchestrator asks."""

from fastapi import APIRouter

from gateway import openapi
from milepost.journal import Journal


def router(journal: Journal) -> APIRouter:
    """`/healthz`: the process is alive. `/readyz`: Redis answers too."""
    routes = APIRouter()

    @routes.get("/healthz", **openapi.HEALTH)
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/readyz", **openapi.READY)
    async def readyz() -> dict[str, str]:
        await journal.ping()
        return {"status": "ready"}

    return routes
