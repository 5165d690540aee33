"""An HTTP client that costs little: POSTs prepared requests to one port, in a closed loop or at a steady rate."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import cast
from urllib.parse import urlencode

import httptools

from benchmarks.arrivals import name
from benchmarks.fill import submission


def form(number: int) -> bytes:
    """A numbered submission as a browser's form sends it, with the answer asked for as JSON."""
    body = urlencode({"email": f"{name(number)}@example.org", "lat": "51.5074", "long": "-0.1278"})
    head = "POST /distance HTTP/1.1\r\nHost: gateway\r\nAccept: application/json\r\n"
    return (
        f"{head}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )


def event(number: int) -> bytes:
    """A numbered submission as the bridge delivers it."""
    body = submission(number).to_json()
    head = "POST / HTTP/1.1\r\nHost: function\r\nContent-Type: application/cloudevents+json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


class Connection(asyncio.Protocol):
    """Carries one request at a time; `answered` holds the status of its reply."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(exc or ConnectionResetError("closed before it replied"))

    def on_message_complete(self) -> None:
        self.answered.set_result(self._parser.get_status_code())

    async def post(self, request: bytes) -> None:
        """Raises RuntimeError for a reply that is not 2xx."""
        self.answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        status = await self.answered
        if not 200 <= status < 300:
            raise RuntimeError(f"HTTP {status}")

    def close(self) -> None:
        self.answered.cancel()
        self._transport.close()


async def connect(port: int, count: int) -> list[Connection]:
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(Connection, "127.0.0.1", port) for _ in range(count)]
    return [connection for _, connection in made]


async def closed_loop(port: int, requests: Sequence[bytes], *, connections: int = 32) -> None:
    """POST them all, each connection its next as soon as it is answered."""
    left = iter(requests)
    await asyncio.gather(*(_post_each(connection, left) for connection in await connect(port, connections)))


async def _post_each(connection: Connection, requests: Iterator[bytes]) -> None:
    for request in requests:
        await connection.post(request)
    connection.close()


async def paced(port: int, requests: Sequence[bytes], *, rate: float) -> list[int]:
    """POST them `rate` a second, on the connection unused for longest; when each was sent, monotonic ns."""
    idle = deque(await connect(port, 8))
    sent, tasks = [], []
    begun = time.monotonic()

    async def one(request: bytes) -> None:
        connection = idle.popleft() if idle else (await connect(port, 1))[0]
        await connection.post(request)
        idle.append(connection)

    for at, request in enumerate(requests):
        await asyncio.sleep(max(0.0, begun + at / rate - time.monotonic()))
        sent.append(time.monotonic_ns())
        tasks.append(asyncio.create_task(one(request)))
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return sent
