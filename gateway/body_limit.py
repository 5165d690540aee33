"""Middleware that reads each request body whole, with a limit in size and time, before anything parses it."""

import asyncio
import contextlib
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.refusal import Refusal
from milepost.errors import MilepostError
from milepost.server.http import check_head, status_of

LARGEST = 64_000
"""Bytes that a request body may have."""

BODY_WITHIN = 10.0
"""Seconds that a body may take, from the head of the request."""

DRAIN_WITHIN = 2.0
DRAIN_MOST = 8_000_000
"""Seconds and bytes for which a refused body is still read."""

_BODYLESS = frozenset({"GET", "HEAD", "OPTIONS"})


class BodyLimit:
    """Passes on a request once its body has arrived. `refuse` makes the response to a body that is too large (413), too
    slow (408), encoded (415) or of several content types (400).
    """

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
            await self.app(scope, _with_body(body, receive), send)


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """Return the whole body, or None if the client has disconnected. Raises Refusal."""
    try:
        check_head(Headers(scope=scope))
    except MilepostError as fault:
        status, _ = status_of(fault)
        raise Refusal(status, f"{fault}. Nothing was accepted.") from None
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > LARGEST:
            raise too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > LARGEST:
                    raise too_large()
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise too_slow() from None


def too_large() -> Refusal:
    return Refusal(413, f"A body has at most {LARGEST:,} bytes. Nothing was accepted.")


def too_slow() -> Refusal:
    return Refusal(408, f"The body did not arrive within {BODY_WITHIN:g} s. Nothing was accepted.")


def _with_body(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


async def _answer(response: Response, receive: Receive, send: Send) -> None:
    """Respond, then read on for a while: to close on unread data resets the connection, and the response is lost."""
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
