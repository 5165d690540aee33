"""Make the id of a submission, and read the headers that identify it or its trace."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from milepost.events.attributes import LONGEST
from milepost.events.ids import new_id
from milepost.events.strict_json import dumps

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_PARTS = re.compile(r"(0|[1-9][0-9]{0,2})(/(0|[1-9][0-9]{0,2}))*", re.ASCII)
# W3C Trace Context, section 3.2.2: version 00 is exactly this long; later versions may append.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-[!-~]{1,200})?"
)


def identify(data: Mapping[str, Any], key: str | None) -> str:
    """Return a new UUIDv7, or with a key a UUIDv8 (RFC 9562, section 5.8) made of the SHA-256 of the key and the data.

    So the same key and data always have the same id.
    """
    if key is None:
        return new_id()
    body = dumps(dict(sorted(data.items())))
    digest = bytearray(hashlib.sha256(f"{key}\n{body}".encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80  # version 8
    digest[8] = digest[8] & 0x3F | 0x80  # RFC 9562's variant
    return str(UUID(bytes=bytes(digest)))


def canonical_id(text: str) -> str | None:
    """Return the id of a submission, or of a part of one, as Milepost writes it: a UUID, perhaps with `/0` behind it.

    None if the text is no such id.
    """
    whole, slash, parts = text.partition("/")
    if not _UUID.fullmatch(whole) or len(text) > LONGEST["id"] or (slash and not _PARTS.fullmatch(parts)):
        return None
    return f"{whole.lower()}{slash}{parts}"


def traceparent(sent: Sequence[str]) -> dict[str, str]:
    """Return the CloudEvents extension for these `traceparent` headers: none unless there is one, and it is valid."""
    found = _TRACEPARENT.fullmatch(sent[0]) if len(sent) == 1 else None
    if not found or (found["more"] and sent[0].startswith("00")):
        return {}
    return {"traceparent": sent[0]}
