"""The id of a submission, and the trace it belongs to."""

import hashlib
import re
from collections.abc import Sequence
from uuid import UUID

from gateway.refusal import fault, invalid
from milepost.events.ids import new_id
from milepost.events.payload import Payload
from milepost.events.strict_json import dumps

HEADER = "Idempotency-Key"
LONGEST_KEY = 255

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
# W3C Trace Context, section 3.2.2: version 00 is exactly this long; later versions may append.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-[!-~]{1,200})?"
)


def identify(payload: Payload, key: str | None, named: str = HEADER) -> str:
    """A new id; with a key, the one that the same key and payload always give.

    A UUIDv7, or a UUIDv8 (RFC 9562, section 5.8) from the SHA-256 of key and canonical body. Raises Refusal,
    naming the field `named`, when the key is not 1 to 255 visible ASCII characters.
    """
    if key is None:
        return new_id()
    if not is_key(key):
        raise invalid([fault(named, f"must be 1 to {LONGEST_KEY} visible ASCII characters")])
    body = dumps(dict(sorted(payload.model_dump(mode="json").items())))
    digest = bytearray(hashlib.sha256(f"{key}\n{body}".encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80  # version 8
    digest[8] = digest[8] & 0x3F | 0x80  # RFC 9562's variant
    return str(UUID(bytes=bytes(digest)))


def is_key(key: str) -> bool:
    """Whether this can be an idempotency key."""
    return _KEY.fullmatch(key) is not None


def canonical_uuid(text: str) -> str | None:
    """A UUID as Milepost writes it; None if the text is none."""
    return text.lower() if _UUID.fullmatch(text) else None


def traceparent(sent: Sequence[str]) -> dict[str, str]:
    """The CloudEvents extension for the `traceparent` headers sent: none unless there is exactly one, and valid."""
    found = _TRACEPARENT.fullmatch(sent[0]) if len(sent) == 1 else None
    if not found or (found["more"] and sent[0].startswith("00")):
        return {}
    return {"traceparent": sent[0]}
