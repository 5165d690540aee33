"""What a function counts of itself, at its `GET /metrics`."""

from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Route

from milepost import Payload, Reject, stage

CE = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/s", "ce-type": "asked"}


class Asked(Payload, channel="asked"):
    number: int


async def look_at(asked: Asked) -> None:
    """Refuses what is negative, fails at 0."""
    if asked.number < 0:
        raise Reject("negative")
    _ = 1 / asked.number


@pytest.fixture
def client() -> httpx.AsyncClient:
    """Of a function as functions-framework serves it: every path is its."""
    app = Starlette(routes=[Route("/{path:path}", stage(look_at), methods=["GET", "HEAD", "POST"])])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://function")


async def counted(client: httpx.AsyncClient) -> dict[tuple[str, str], float]:
    """Sample and status → value."""
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: dict[tuple[str, str], Any] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            assert sample.labels["stage"] == "look-at"
            found[sample.name, sample.labels.get("status", "")] = sample.value
    return found


async def test_events_are_counted_by_status_and_timed(client: httpx.AsyncClient) -> None:
    for number in (1, 2, -1, 0):
        await client.post("/", json={"number": number}, headers=CE)
    found = await counted(client)
    requests = {status: value for (name, status), value in found.items() if name.endswith("requests_total")}
    assert requests == {"204": 2, "422": 1, "500": 1}
    assert found["milepost_function_request_seconds_count", ""] == 4
    assert found["milepost_function_in_flight", ""] == 0


async def test_what_is_no_event_is_not_counted(client: httpx.AsyncClient) -> None:
    await client.get("/")
    await counted(client)
    assert (await counted(client))["milepost_function_request_seconds_count", ""] == 0
