"""Call a stage as the bridge does, without a server."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request

from milepost.errors import MilepostError
from milepost.events.batch import is_batch, read_batch
from milepost.events.event import STRUCTURED_TYPE, Event
from milepost.function.stage import StageHandler


class Problem(MilepostError):
    """A stage's refusal: HTTP status, title, detail, `errors` by field, `retry_after` in seconds if it names one."""

    def __init__(self, status: int, body: dict[str, Any], retry_after: float | None) -> None:
        super().__init__(f"{status} {body['title']}: {body['detail']}")
        self.status = status
        self.title: str = body["title"]
        self.detail: str = body["detail"]
        self.errors: list[dict[str, str]] = body.get("errors", [])
        self.retry_after = retry_after


def load(path: Path) -> StageHandler:
    """Load a file as functions-framework does, and return its `main`."""
    spec = spec_from_file_location(f"stage_{path.parent.name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: no Python file")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    main: StageHandler = module.main
    return main


async def answer(stage: StageHandler, event: Event) -> Event | None:
    """Deliver one event, as the bridge does. Returns the next event, or None if the stage emits nothing.

    Raises Problem if the stage refuses it, ValueError if it gives several answers.
    """
    found = await answers(stage, event)
    if len(found) > 1:
        raise ValueError(f"{len(found)} answers; `answers` returns them all")
    return found[0] if found else None


async def answers(stage: StageHandler, event: Event) -> list[Event]:
    """Deliver one event, as the bridge does. Returns all next events. Raises Problem if the stage refuses it."""
    sent = False
    body = event.to_json().encode()

    async def receive() -> dict[str, Any]:
        nonlocal sent
        first, sent = not sent, True
        return {"type": "http.request", "body": body} if first else {"type": "http.disconnect"}

    headers = Headers({"content-type": STRUCTURED_TYPE})
    response = await stage(Request({"type": "http", "method": "POST", "path": "/", "headers": headers.raw}, receive))
    content = bytes(response.body)
    if response.status_code == 204:
        return []
    if response.status_code == 200 and is_batch(response.headers["content-type"]):
        return read_batch(content)
    if response.status_code == 200:
        return [Event.from_http(response.headers, content)]
    again = response.headers.get("retry-after")
    raise Problem(response.status_code, json.loads(content), None if again is None else float(again))
