"""Where event ids come from."""

import sys

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid6 import uuid7


def new_id() -> str:
    """A UUIDv7 (RFC 9562, section 5.7): unique, and sorted by the time it was made."""
    return str(uuid7())
