"""Send and read events over HTTP without Milepost's codec: by hand, and with the CloudEvents SDK."""

import asyncio
import json
from typing import Any

import httpx
from cloudevents.http import CloudEvent, from_http

from milepost.testing.servers import WITHIN

BATCH = "application/cloudevents-batch+json"
STRUCTURED = "application/cloudevents+json"


def binary(event: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    """Write an event in binary mode, as headers and body."""
    headers = {f"ce-{name}": str(value) for name, value in event.items() if name != "data"}
    return headers | {"content-type": "application/json"}, json.dumps(event["data"]).encode()


def structured(event: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    return {"content-type": STRUCTURED}, json.dumps(event).encode()


def batched(events: list[dict[str, Any]]) -> tuple[dict[str, str], bytes]:
    return {"content-type": BATCH}, json.dumps(events).encode()


def send(url: str, event: Any, mode: Any = binary) -> httpx.Response:
    headers, body = mode(event)
    return httpx.post(url, headers=headers, content=body, timeout=WITHIN)


async def at_once(url: str, events: list[dict[str, Any]]) -> list[httpx.Response]:
    """Deliver all events concurrently."""
    async with httpx.AsyncClient(timeout=WITHIN) as client:

        async def deliver(event: dict[str, Any]) -> httpx.Response:
            headers, body = binary(event)
            return await client.post(url, headers=headers, content=body)

        return await asyncio.gather(*map(deliver, events))


def answered(response: httpx.Response) -> CloudEvent:
    assert response.status_code == 200, response.text
    return from_http(dict(response.headers), response.content)


def ce_headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("ce-") or name == "content-type"}


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check that the response is a short RFC 9457 problem with this HTTP status, without a traceback. Returns it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert problem["detail"]
    assert "Traceback" not in response.text
    assert len(response.content) < 3000
    return problem
