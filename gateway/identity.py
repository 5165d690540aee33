"""The id of a submission, and the trace it belongs to."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from milepost.events.ids import new_id
from milepost.events.strict_json import dumps

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
# W3C Trace Context, section 3.2.2: version 00 is exactly this long; later versions may append.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-[!-~]{1,200})?"
)


def identify(data: Mapping[str, Any], key: str | None) -> str:
    """Return a new id (UUIDv7), or with a key the one that the same key and data always give.

    That is a UUIDv8 (RFC 9562, section 5.8) from the SHA-256 of the key and the data.
    """
    if key is None:
        return new_id()
    body = dumps(dict(sorted(data.items())))
    digest = bytearray(hashlib.sha256(f"{key}\n{body}".encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80  # version 8
    digest[8] = digest[8] & 0x3F | 0x80  # RFC 9562's variant
    return str(UUID(bytes=bytes(digest)))


def canonical_uuid(text: str) -> str | None:
    """A UUID as Milepost writes it; None if the text is none."""
    return text.lower() if _UUID.fullmatch(text) else None


def traceparent(sent: Sequence[str]) -> dict[str, str]:
    """The CloudEvents extension for the `traceparent` headers sent: none unless there is exactly one, and valid."""
    found = _TRACEPARENT.fullmatch(sent[0]) if len(sent) == 1 else None
    if not found or (found["more"] and sent[0].startswith("00")):
        return {}
    return {"traceparent": sent[0]}
