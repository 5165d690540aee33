"""HTTP/1.1 byte by byte, for requests that a client library would refuse to send."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import httptools

from tests.servers import HOST, WITHIN

CLOSE = b"connection: close"


@dataclass
class Reply:
    """One response; names of headers are in lower case."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class _Reading:
    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self.replies.append(Reply())

    def on_header(self, name: bytes, value: bytes) -> None:
        self.replies[-1].headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self.replies[-1].status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.replies[-1].body += body


def request(
    method: str, path: str, headers: Sequence[bytes] = (), body: bytes | None = None, *, chunked: bool = False
) -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"host: x", *headers]
    if body is None:
        return b"\r\n".join([*lines, b"", b""])
    if chunked:
        half = len(body) // 2
        parts = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]))
        return b"\r\n".join([*lines, b"transfer-encoding: chunked", b"", parts + b"0\r\n\r\n"])
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", body])


async def received(port: int, *packets: bytes) -> bytes:
    """Send the packets one by one and return every byte that comes until the server closes or resets the connection."""
    got = b""
    async with asyncio.timeout(WITHIN):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            with contextlib.suppress(ConnectionError):
                for packet in packets:
                    writer.write(packet)
                    await writer.drain()
                    await asyncio.sleep(0)
            with contextlib.suppress(ConnectionError):
                while part := await reader.read(65_536):
                    got += part
        finally:
            writer.transport.abort()
    return got


async def replies(port: int, *packets: bytes) -> list[Reply]:
    """The same as responses."""
    reading = _Reading()
    reading.parser.feed_data(await received(port, *packets))
    return reading.replies


async def statuses(port: int, *packets: bytes) -> list[int]:
    return [reply.status for reply in await replies(port, *packets)]
