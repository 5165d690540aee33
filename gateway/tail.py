"""The live tail: what is said on the channels, to a few operators, with no address in full."""

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from gateway.notifier import Notifier
from gateway.refusal import Refusal
from milepost.events.strict_json import dumps, loads
from milepost.observe.logs import masked

MOST_TAILS = 5

MOST_AT_ONCE = 10
"""Messages told in one PAUSE; of more the latest are told, and how many were passed over."""

PAUSE = 0.5
"""Seconds between two looks at what has come."""

BEAT = 15.0
LONGEST = 900.0
"""As of the stream of a submission."""

LONGEST_DATA = 300
"""Characters that are told of a message's data."""

LOOKED_AT = 3000
"""Characters of it that are looked at for addresses."""

_BROKEN_OFF = re.compile(r"\S*\Z")

Said = tuple[str, bytes]
"""A channel, and what was said on it."""


class Tails:
    """Hands out tails of what the process's one subscription hears."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._open = 0

    @contextmanager
    def tail(self) -> Iterator[AsyncIterator[bytes]]:
        """Server-sent events from now on. Raises Refusal: too many are open."""
        if self._open >= MOST_TAILS:
            raise Refusal(503, "Too many tails are open just now.", retry_after=10)
        said: deque[Said] = deque(maxlen=MOST_AT_ONCE)
        passed = [0]

        def take(channel: str, message: bytes) -> None:
            passed[0] += len(said) == MOST_AT_ONCE
            said.append((channel, message))

        self._open += 1
        with self._notifier.overhear(take):
            try:
                yield self._told(said, passed)
            finally:
                self._open -= 1

    async def _told(self, said: deque[Said], passed: list[int]) -> AsyncIterator[bytes]:
        began = spoke = time.monotonic()
        yield format_sse_event(retry=2000)
        while not self._notifier.closed and time.monotonic() - began < LONGEST:
            if passed[0]:
                yield format_sse_event(data_str=dumps({"passed": passed[0]}))
                passed[0] = 0
            while said:
                spoke = time.monotonic()
                yield format_sse_event(data_str=dumps(line(*said.popleft())))
            if time.monotonic() - spoke > BEAT:
                spoke = time.monotonic()
                yield KEEPALIVE_COMMENT
            await asyncio.sleep(PAUSE)


def line(channel: str, message: bytes) -> dict[str, Any]:
    """Channel, id and data of a message, masked; what is no event is shown as text, without an id."""
    try:
        event = loads(message)
    except ValueError:
        event = message.decode(errors="replace")
    found: dict[str, Any] = {"channel": channel, "id": "", "data": event}
    if isinstance(event, dict) and "specversion" in event:
        found |= {"id": masked(str(event.get("id", "")))[:64], "data": event.get("data")}
    data = found["data"] if isinstance(found["data"], str) else dumps(found["data"])
    if len(data) > LOOKED_AT:
        data = _BROKEN_OFF.sub("", data[:LOOKED_AT])  # the end may be half an address
    return {**found, "data": masked(data)[:LONGEST_DATA]}
