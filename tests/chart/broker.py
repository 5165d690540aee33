"""A Knative Broker on an in-memory channel, with the behaviour of Eventing 1.22 that Milepost sees.

It reads the Triggers that the chart renders. A POST is answered when every Trigger of the event's type is through:
the subscriber has answered, its reply has gone through the Broker in turn, or the dead-letter sink has the event.
"""

import asyncio
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import httpx

from milepost.events.event import Event
from tests.bridge.rig import Answer, Delivery, Stage, status
from tests.chart.rendering import Object, of_kind

RETRIED = {404, 408, 409, 429}
"""And everything from 500 on. Other 4xx go to the dead-letter sink at once."""


class Broker:
    """`services`: name of a Service, Knative's or a plain one -> its URL here. `url` is what K_SINK names."""

    def __init__(self, objects: list[Object], services: Mapping[str, str]) -> None:
        self.triggers = [found["spec"] for found in of_kind(objects, "Trigger")]
        self.deliveries: list[tuple[str, str]] = []
        """Event type and URL of each delivery attempt."""
        self._services = services
        self._door = Stage("broker", "", None, self._take)
        self._client = httpx.AsyncClient(trust_env=False)

    @property
    def url(self) -> str:
        return self._door.url

    async def __aenter__(self) -> Self:
        await self._door.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._door.close()
        await self._client.aclose()

    async def _take(self, delivery: Delivery) -> Answer:
        return status(202 if await self._carry(delivery.event) else 502)

    async def _carry(self, event: Event) -> bool:
        wanting = [spec for spec in self.triggers if spec["filter"]["attributes"] == {"type": event.type}]
        return all(await asyncio.gather(*(self._dispatch(event, spec) for spec in wanting)))

    async def _dispatch(self, event: Event, spec: Object) -> bool:
        code, reply, body = await self._try(event, self._address(spec["subscriber"]), spec["delivery"])
        if code < 300 and (reply is None or await self._carry(reply)):
            return True
        sink = spec["delivery"].get("deadLetterSink")
        if sink is None:
            return False
        why = {"knativeerrorcode": str(code), "knativeerrordata": b64encode(body)[:1024].decode()}
        given_up = replace(event, extensions={**event.extensions, **why})
        code, _, _ = await self._try(given_up, self._address(sink), spec["delivery"])
        return code < 300

    async def _try(self, event: Event, url: str, delivery: Object) -> tuple[int, Event | None, bytes]:
        """Return the last attempt's status, its reply and its body. A 2xx with a body that is no event is 502."""
        code, reply, body = 0, None, b""
        for attempt in range(delivery["retry"] + 1):
            if attempt:
                await asyncio.sleep(seconds(delivery["backoffDelay"]) * 2 ** (attempt - 1))
            code, reply, body = await self._post(event, url, seconds(delivery["timeout"]))
            if code not in RETRIED and code < 500:
                break
        return code, reply, body

    async def _post(self, event: Event, url: str, within: float) -> tuple[int, Event | None, bytes]:
        self.deliveries.append((event.type, url))
        headers, body = event.to_http()
        try:
            async with asyncio.timeout(within):
                response = await self._client.post(url, headers={**headers, "prefer": "reply"}, content=body)
        except (httpx.TransportError, TimeoutError):
            return 500, None, b"dispatch error"
        if response.is_success and response.content:
            if "ce-specversion" not in response.headers:
                return 502, None, response.content
            return response.status_code, Event.from_http(response.headers, response.content), b""
        return response.status_code, None, response.content

    def _address(self, destination: Object) -> str:
        return self._services[destination["ref"]["name"]] + destination.get("uri", "/")


def seconds(duration: str) -> float:
    """Return the seconds of a duration without hours."""
    found = re.fullmatch(r"PT(?:(\d+)M)?(?:([\d.]+)S)?", duration)
    assert found
    return 60 * float(found[1] or 0) + float(found[2] or 0)
