"""Send raw HTTP/1.1 over kept connections, malformed requests too, which a client library would refuse to send."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import httptools

from tests.servers import ANSWER_WITHIN, HOST

RAW_WITHIN = 0.25
"""Seconds for the response to bytes that may be an incomplete request."""


@dataclass
class Reply:
    """An answer; names of headers are in lower case."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def media(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0]


def request(path: str, headers: Sequence[tuple[bytes, bytes]], body: bytes, method: str = "POST") -> bytes:
    """A request's bytes; its length is added."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"host: fuzz", b"content-length: %d" % len(body)]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"", body])


class _Reading:
    """Callbacks of httptools' parser."""

    def __init__(self) -> None:
        self.reply = Reply()
        self.whole = False
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.reply.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.reply.body += body

    def on_message_complete(self) -> None:
        self.whole = True


class Link:
    """One connection to a port of this machine. It connects again if the other end has closed it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, sent: bytes) -> Reply:
        """Send a whole request and return the response. Raises AssertionError if there is none."""
        for _ in range(2):
            new = self._streams is None
            reader, writer = self._streams = self._streams or await asyncio.open_connection(HOST, self.port)
            reply = None
            with contextlib.suppress(ConnectionError):
                writer.write(sent)
                async with asyncio.timeout(ANSWER_WITHIN):
                    reply = await _read(reader)
            if reply is None or reply.headers.get("connection") == "close":
                await self.close()
            if reply is not None:
                return reply
            if new:
                break  # else the other end closed an idle connection: once more on a new one
        raise AssertionError(f"port {self.port} closed the connection without an answer to {sent[:2000]!r}")

    async def close(self) -> None:
        if self._streams:
            await close(self._streams[1])
            self._streams = None


async def ask_all(links: Sequence[Link], requests: Sequence[bytes]) -> list[Reply]:
    """Send requests over all links at once. Returns the responses in the order of the requests."""
    replies: dict[int, Reply] = {}

    async def work(link: Link, first: int) -> None:
        for number in range(first, len(requests), len(links)):
            replies[number] = await link.ask(requests[number])

    await asyncio.gather(*(work(link, first) for first, link in enumerate(links)))
    return [replies[number] for number in range(len(requests))]


async def tell_all(port: int, sent: Sequence[bytes]) -> list[Reply | None]:
    """`tell` each of these, all at once."""
    return await asyncio.gather(*(tell(port, one) for one in sent))


async def tell(port: int, sent: bytes) -> Reply | None:
    """Send bytes on a new connection. Returns the first response, None if none came in time."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        with contextlib.suppress(ConnectionError, TimeoutError):
            writer.write(sent)
            async with asyncio.timeout(RAW_WITHIN):
                return await _read(reader)
        return None
    finally:
        await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once, and wait until it is."""
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Reply | None:
    reading = _Reading()
    while not reading.whole:
        data = await reader.read(65_536)
        if not data:
            return None
        reading.parser.feed_data(data)
    return reading.reply
