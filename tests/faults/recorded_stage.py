"""A stage of this project that records its deliveries. Rows start it in place of the stage's own file.

STAGE is the stage's name, HISTORY the folder of the row's history.
"""

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from milepost.errors import MilepostError
from milepost.events.batch import is_batch, read_batch
from milepost.events.event import Event
from tests.faults.history import Recorder

STAGE = os.environ["STAGE"]
serve = importlib.import_module(f"functions.{STAGE}.main").main
recorder = Recorder(Path(os.environ["HISTORY"]), STAGE)


async def main(request: Request) -> Response:
    if request.method != "POST":
        return await serve(request)
    begun = recorder.begin(events_in(request, await request.body()))
    response: Response = await serve(request)
    recorder.end(begun, answers(response, [event_id for _, event_id in begun]))
    return response


def events_in(request: Request, body: bytes) -> Mapping[str, str]:
    """The id of each event in a request, and the address in it. Starlette keeps the body for `serve`."""
    try:
        batch = is_batch(request.headers.get("content-type", ""))
        events = read_batch(body) if batch else [Event.from_http(request.headers, body)]
    except MilepostError:
        return {}
    return {event.id: str(event.data["email"] if isinstance(event.data, dict) else event.data) for event in events}


def answers(response: Response, ids: list[str]) -> Mapping[str, int]:
    """The status that each event was answered with."""
    if response.status_code == 207:
        return {item["id"]: item["status"] for item in json.loads(bytes(response.body))}
    return dict.fromkeys(ids, response.status_code)
