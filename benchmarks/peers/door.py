"""The form handler of the contenders: it hands a form on and answers, at once or when the form is kept."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, Form


def door(submit: Callable[[str, float, float], Awaitable[Any]], lifespan: Any = None) -> FastAPI:
    """An application that answers a form when `submit(address, latitude, longitude)` has returned."""
    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def alive() -> None:
        """So that a probe sees it."""

    @app.post("/distance")
    async def form(
        email: Annotated[str, Form()], lat: Annotated[float, Form()], long: Annotated[float, Form()]
    ) -> None:
        await submit(email, lat, long)

    return app
