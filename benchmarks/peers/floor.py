"""The floor: a relay that keeps nothing. Reads a stream in large gulps and POSTs each entry, one at a time on each of
some connections. What that costs, nothing in Python can undercut by much.

python -m benchmarks.peers.floor REDIS_PORT SINK_PORT
"""

import asyncio
import socket
import sys
from typing import cast

import hiredis
import httptools
import uvloop

CONNECTIONS = 64
GULP = 1000
"""Entries read at once."""

HEAD = b"POST / HTTP/1.1\r\nHost: sink\r\nContent-Type: application/cloudevents+json\r\nContent-Length: "


class Relay:
    """The events read and not yet POSTed, and the connections that have nothing to do."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.idle: list[Post] = []
        self.drained = asyncio.Event()

    def feed(self, bodies: list[bytes]) -> None:
        self.bodies = bodies
        self.drained.clear()
        idle, self.idle = self.idle, []
        for post in idle:
            post.on_message_complete()


class Post(asyncio.Protocol):
    """A connection to the sink. The parser calls `on_message_complete` for each reply: the next event goes out."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._parser = httptools.HttpResponseParser(self)
        self.data_received = self._parser.feed_data  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._relay.idle.append(self)

    def on_message_complete(self) -> None:
        if self._relay.bodies:
            body = self._relay.bodies.pop()
            self._transport.write(b"%b%d\r\n\r\n%b" % (HEAD, len(body), body))
        else:
            self._relay.idle.append(self)
            self._relay.drained.set()


async def serve(redis_port: int, sink_port: int) -> None:
    loop = asyncio.get_running_loop()
    relay, reader, last = Relay(), hiredis.Reader(), b"0"
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Post(relay), "127.0.0.1", sink_port)
    source = socket.create_connection(("127.0.0.1", redis_port))
    source.settimeout(0)
    print("ready", flush=True)
    while True:
        await loop.sock_sendall(source, b"XREAD COUNT %d BLOCK 0 STREAMS events %b\r\n" % (GULP, last))
        while (answer := reader.gets()) is False:
            reader.feed(await loop.sock_recv(source, 1 << 20))
        rows = answer[0][1]
        last = rows[-1][0]
        relay.feed([fields[1] for _, fields in reversed(rows)])
        await relay.drained.wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
