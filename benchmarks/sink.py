"""An HTTP sink that costs little: notes when each event's first byte came, and answers 204.

python -m benchmarks.sink PORT ARRIVALS DELAY     DELAY: seconds until it answers
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import cast

import httptools
import uvloop

from benchmarks.arrivals import Arrivals, number

REPLY = b"HTTP/1.1 204 No Content\r\n\r\n"


class Sink(asyncio.Protocol):
    """One connection. The parser calls `on_body` and `on_message_complete`."""

    def __init__(self, arrivals: Arrivals, delay: float) -> None:
        self._arrivals = arrivals
        self._delay = delay
        self._parser = httptools.HttpRequestParser(self)
        self._at = 0
        self._due = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._at = time.monotonic_ns()
        self._parser.feed_data(data)
        if self._due and not self._delay:
            self._transport.write(REPLY * self._due)
        elif self._due:
            asyncio.get_running_loop().call_later(self._delay, self._transport.write, REPLY * self._due)
        self._due = 0

    def on_body(self, body: bytes) -> None:
        found = number(body)
        if found is not None:
            self._arrivals.note(found, self._at)

    def on_message_complete(self) -> None:
        self._due += 1


async def serve(port: int, arrivals: Arrivals, delay: float) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: Sink(arrivals, delay), "127.0.0.1", port, backlog=2048
    )
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Arrivals(Path(sys.argv[2])), float(sys.argv[3])))
