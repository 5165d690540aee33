"""Ids of new events."""

import sys

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid6 import uuid7


def new_id() -> str:
    """Make a UUIDv7 (RFC 9562, section 5.7): unique, and later ones sort after earlier ones."""
    return str(uuid7())
