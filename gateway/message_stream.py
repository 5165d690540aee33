"""The live messages of /ops: server-sent events of the messages on all channels, with e-mail addresses masked."""

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
from gateway.stream import KEEPALIVE, LONGEST, RETRY
from milepost.events.strict_json import dumps, loads_or_text
from milepost.observe.logs import masked

MOST_STREAMS = 5

MOST_AT_ONCE = 10
"""Most messages shown for one PAUSE: the latest. The stream says how many others there were."""

PAUSE = 0.5
"""Seconds from one batch of messages to the next."""

LONGEST_DATA = 300
"""Characters of a message's data that are shown."""

LOOKED_AT = 3000
"""Characters of the data that are searched for addresses. The rest is not shown."""

_LAST_WORD = re.compile(r"\S*\Z")

Received = tuple[str, bytes]
"""A channel and a message on it."""


class MessageStreams:
    """Makes streams, at most MOST_STREAMS at a time, of the messages that the process's one subscription receives."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._open = 0

    @contextmanager
    def open(self) -> Iterator[AsyncIterator[bytes]]:
        """Yield the server-sent events of a new stream. Raises Refusal (503) if too many are open."""
        if self._open >= MOST_STREAMS:
            raise Refusal(503, "Too many streams are open just now.", retry_after=10)
        received: deque[Received] = deque(maxlen=MOST_AT_ONCE)
        skipped = [0]

        def take(channel: str, message: bytes) -> None:
            skipped[0] += len(received) == MOST_AT_ONCE
            received.append((channel, message))

        self._open += 1
        with self._notifier.messages(take):
            try:
                yield self._events(received, skipped)
            finally:
                self._open -= 1

    async def _events(self, received: deque[Received], skipped: list[int]) -> AsyncIterator[bytes]:
        began = sent_at = time.monotonic()
        yield format_sse_event(retry=RETRY)
        while not self._notifier.closed and time.monotonic() - began < LONGEST:
            if skipped[0]:
                yield format_sse_event(data_str=dumps({"passed": skipped[0]}))
                skipped[0] = 0
            while received:
                sent_at = time.monotonic()
                yield format_sse_event(data_str=dumps(line(*received.popleft())))
            if time.monotonic() - sent_at > KEEPALIVE:
                sent_at = time.monotonic()
                yield KEEPALIVE_COMMENT
            await asyncio.sleep(PAUSE)


def line(channel: str, message: bytes) -> dict[str, Any]:
    """Return channel, id and data of a message, with addresses masked. The data of a message that is no event is its
    text.
    """
    event = loads_or_text(message)
    found: dict[str, Any] = {"channel": channel, "id": "", "data": event}
    if isinstance(event, dict) and "specversion" in event:
        found |= {"id": masked(str(event.get("id", "")))[:64], "data": event.get("data")}
    data = found["data"] if isinstance(found["data"], str) else dumps(found["data"])
    if len(data) > LOOKED_AT:
        data = _LAST_WORD.sub("", data[:LOOKED_AT])  # the last word may be half an address
    return {**found, "data": masked(data)[:LONGEST_DATA]}
