"""A stand-in for a Knative Broker on an in-memory channel: the server behind the stage `broker` of a test.

    broker = Broker({"in": [first.url], "middle": [second.url]})
    sink = await rig.stage("broker", "", None, broker)  # its URL is the bridge's K_SINK

1. An event is POSTed to every Trigger of its type, all at once. An event in a response takes the same way.
2. A Trigger tries again where a Broker does, after `backoff` seconds, then after twice as many, and so on.
3. The Broker answers when all Triggers are through, as the channel does unless `async-handler` is set.
"""

import asyncio
from collections.abc import Mapping, Sequence

from milepost.bridge.http.client import Client
from milepost.events.event import STRUCTURED_TYPE, Event
from tests.bridge.rig import Delivery, status

RETRIED = frozenset({404, 408, 409, 429})
"""Statuses below 500 after which a Broker tries again."""


class Broker:
    """`triggers`: the URLs of the subscribers, by the type of an event. `retries` counts the repeated requests."""

    def __init__(self, triggers: Mapping[str, Sequence[str]], *, backoff: float = 0.2) -> None:
        self.retries = 0
        self._clients = {kind: [Client(url) for url in urls] for kind, urls in triggers.items()}
        self._backoff = backoff

    async def __call__(self, delivery: Delivery) -> bytes:
        await self._publish(delivery.event)
        return status(202)

    async def _publish(self, event: Event) -> None:
        await asyncio.gather(*(self._trigger(client, event) for client in self._clients.get(event.type, ())))

    async def _trigger(self, client: Client, event: Event) -> None:
        body, pause = event.to_json().encode(), self._backoff
        while True:
            response = await client.post(body, content_type=STRUCTURED_TYPE, timeout=60)
            if response.status < 500 and response.status not in RETRIED:
                break
            self.retries += 1
            await asyncio.sleep(pause)
            pause *= 2
        if response.status < 300 and response.body:
            await self._publish(Event.from_http(response.headers, response.body))

    async def close(self) -> None:
        """Close the connections to the subscribers."""
        await asyncio.gather(*(client.close() for clients in self._clients.values() for client in clients))
