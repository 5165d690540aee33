"""What the gateway's tests submit, and the form in which they look at it again."""

from collections.abc import Awaitable, Callable
from typing import Any

LONDON = {"email": "ada@example.org", "lat": 51.5074, "long": -0.1278}

Published = Callable[[], Awaitable[list[dict[str, Any]]]]
"""Reads the events in the journal of raw_input, oldest first."""
