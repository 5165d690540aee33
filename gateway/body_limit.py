"""No request body may be large, or slow: it is read whole and counted here, before anything parses it."""

import asyncio
import contextlib
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.refusal import Refusal
from milepost.server.http import content_encoding, only_plain

LARGEST = 64_000
"""Bytes of a request body."""

READ_WITHIN = 10.0
"""Seconds from the head of a request to the end of its body."""

DRAIN_WITHIN = 2.0
DRAIN_MOST = 8_000_000
"""How long, and how many bytes, a refused body is read on."""

_BODYLESS = frozenset({"GET", "HEAD", "OPTIONS"})


class BodyLimit:
    """Hands on a request once its body is here and small enough; else `refuse` makes the answer: 413, or 408."""

    def __init__(self, app: ASGIApp, *, refuse: Callable[[Headers, Refusal], Response]) -> None:
        self.app = app
        self.refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _BODYLESS:
            await self.app(scope, receive, send)
            return
        try:
            body = await _read(scope, receive)
        except Refusal as refusal:
            await _answer(self.refuse(Headers(scope=scope), refusal), receive, send)
            return
        if body is not None:
            await self.app(scope, _replay(body, receive), send)


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body; None if the client has gone. Raises Refusal."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > LARGEST:
            raise _too_large()
    if encoding := content_encoding(Headers(scope=scope)):
        raise Refusal(415, f"{only_plain(encoding)} Nothing was accepted.")
    body = bytearray()
    try:
        async with asyncio.timeout(READ_WITHIN):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > LARGEST:
                    raise _too_large()
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refusal(408, f"The body did not arrive within {READ_WITHIN:g} s. Nothing was accepted.") from None


def _too_large() -> Refusal:
    return Refusal(413, f"A body has at most {LARGEST:,} bytes. Nothing was accepted.")


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


async def _answer(response: Response, receive: Receive, send: Send) -> None:
    """Answer, then read on for a while: closing on unread data resets the connection, and the answer is lost."""
    response.headers["connection"] = "close"
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    unread = DRAIN_MOST
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_WITHIN):
            while unread > 0:
                message = await receive()
                unread -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
    await send({"type": "http.response.body", "body": b""})
