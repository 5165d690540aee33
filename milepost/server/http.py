"""Read a request's body within limits, and answer with a problem (RFC 9457): for every HTTP server of Milepost."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from milepost.errors import (
    Defer,
    Encoded,
    EventError,
    InvalidPayload,
    MilepostError,
    Reject,
    TooLarge,
    TooSlow,
    Unavailable,
)
from milepost.events.event import MAX_EVENT

READ_WITHIN = 30.0
"""Seconds from the head of a request to the end of its body."""

PROBLEMS: Sequence[tuple[type[MilepostError], int, str]] = (
    (TooLarge, 413, "Too large"),
    (Encoded, 415, "Unsupported media type"),
    (TooSlow, 408, "Too slow"),
    (EventError, 400, "Not a CloudEvent"),
    (InvalidPayload, 422, "Invalid payload"),
    (Reject, 422, "Rejected"),
    (Defer, 409, "Deferred"),
    (Unavailable, 503, "Unavailable"),
    (MilepostError, 500, "Internal error"),
)
"""HTTP status and title for each exception class. The first class that fits counts."""


async def read_body(request: Request) -> bytes:
    """Read the whole body. Raises as `check_head` does before reading, TooLarge as soon as it is, TooSlow when it does
    not arrive, EventError when the client goes away before its end.
    """
    check_head(request.headers)
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


def check_head(headers: Headers) -> None:
    """Raise EventError if there are several content types (RFC 9110, section 8.3), Encoded for an encoded body."""
    if len(headers.getlist("content-type")) > 1:
        raise EventError("content-type: given twice")
    codings = [coding.strip().lower() for value in headers.getlist("content-encoding") for coding in value.split(",")]
    if encoding := ", ".join(coding for coding in codings if coding not in {"", "identity"}):
        raise Encoded(f"Send the body as it is: Content-Encoding {encoding[:40]!a} is not read")


def status_of(fault: MilepostError) -> tuple[int, str]:
    """Return the HTTP status and the title of the problem for an exception."""
    return next((status, title) for kind, status, title in PROBLEMS if isinstance(fault, kind))


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    errors: list[dict[str, str]] | None = None,
    retry_after: float | None = None,
) -> Response:
    """Make the response for a problem. `retry_after` is in seconds."""
    return problem_response(problem_fields(status, title, detail, errors=errors), retry_after=retry_after)


def problem_fields(
    status: int, title: str, detail: str, *, errors: list[dict[str, str]] | None = None
) -> dict[str, Any]:
    """Make the fields of a problem. `errors` has `field` and `fault` for each field at fault.

    Texts may quote a body that has half a surrogate pair, which UTF-8 cannot hold: it is escaped.
    """
    fields: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": _utf8(detail[:1000])}
    if errors:
        fields["errors"] = [{name: _utf8(text) for name, text in error.items()} for error in errors]
    return fields


def _utf8(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def problem_response(fields: dict[str, Any], *, retry_after: float | None = None) -> Response:
    """Return the problem as a JSON response."""
    headers = {} if retry_after is None else {"retry-after": str(whole_seconds(retry_after))}
    return JSONResponse(fields, fields["status"], headers, media_type="application/problem+json")


def whole_seconds(seconds: float) -> int:
    """Round up for Retry-After, to 1 at least (RFC 9110, section 10.2.3). Anything but a number of seconds is 1."""
    try:
        return max(1, math.ceil(seconds))
    except (TypeError, ValueError, OverflowError):  # a text or a timedelta, NaN, an infinity
        return 1
