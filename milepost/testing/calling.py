"""Call a stage as the bridge does, without a server, and get the event that would go to the next channel."""

import asyncio
import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.requests import Request

from milepost.errors import MilepostError
from milepost.events.event import Event, now
from milepost.events.payload import Payload
from milepost.function.description import Description
from milepost.function.stage import StageHandler

STRUCTURED = "application/cloudevents+json"


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


def described(stage: StageHandler) -> Description:
    """Return the description of a stage, read from its annotations."""
    description: Description = stage.description  # type: ignore[attr-defined]
    return description


def event_of(channel: str, payload: Any, *, event_id: str | None = None, source: str = "/test") -> Event:
    """Make an event on `channel` with `payload` as data: a Payload, or any JSON."""
    data = payload.model_dump(mode="json") if isinstance(payload, Payload) else payload
    return Event(id=event_id or str(uuid4()), source=source, type=channel, time=now(), data=data)


async def answer(stage: StageHandler, event: Event) -> Event | None:
    """Deliver one event, as the bridge does. Returns the next event, or None if the stage emits nothing.

    Raises Problem if the stage refuses it.
    """
    sent = False
    body = event.to_json().encode()

    async def receive() -> dict[str, Any]:
        nonlocal sent
        first, sent = not sent, True
        return {"type": "http.request", "body": body} if first else {"type": "http.disconnect"}

    headers = Headers({"content-type": STRUCTURED})
    response = await stage(Request({"type": "http", "method": "POST", "path": "/", "headers": headers.raw}, receive))
    content = bytes(response.body)
    if response.status_code == 204:
        return None
    if response.status_code == 200:
        return Event.from_http(response.headers, content)
    again = response.headers.get("retry-after")
    raise Problem(response.status_code, json.loads(content), None if again is None else float(again))


def run(stage: StageHandler, payload: Any) -> Payload | None:
    """Deliver a payload (a Payload, or any JSON) and return the next one, or None if the stage emits nothing.

    Raises Problem if the stage refuses it. For tests that are plain functions; in a coroutine await `answer`.
    """
    description = described(stage)
    reply = asyncio.run(answer(stage, event_of(description.consumes.channel, payload)))
    if reply is None or description.emits is None:
        return None
    return description.emits.model_validate(reply.data)
