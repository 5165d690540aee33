"""The two things every HTTP face of Milepost does alike: read a bounded body, and answer with a problem."""

import asyncio
import math
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from milepost.errors import EventError, TooLarge, TooSlow
from milepost.event import MAX_EVENT

READ_WITHIN = 30.0
"""Seconds from the head of a request to the end of its body."""


async def read_body(request: Request) -> bytes:
    """The whole body. Raises TooLarge as soon as it is, TooSlow when it does not arrive, EventError when the client
    goes away in its middle.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(READ_WITHIN):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_EVENT:
                    raise TooLarge(f"an event is at most {MAX_EVENT} bytes")
    except ClientDisconnect:
        raise EventError("the body ended early") from None
    except TimeoutError:
        raise TooSlow(f"the body did not arrive within {READ_WITHIN:g} s") from None
    return bytes(body)


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    errors: list[dict[str, str]] | None = None,
    retry_after: float | None = None,
) -> Response:
    """An RFC 9457 problem. `retry_after` in seconds, rounded up to whole ones (RFC 9110, section 10.2.3)."""
    content: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail[:1000]}
    if errors:
        content["errors"] = errors
    headers = {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}
    return JSONResponse(content, status, headers, media_type="application/problem+json")
