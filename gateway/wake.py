"""Asks the bridges to wake the stages with `wake: page` when a visitor opens the form, so that they start meanwhile."""

import asyncio
import logging
import time
from collections.abc import Iterable

from functions.payloads import Submission
from milepost.errors import JournalUnavailable
from milepost.graph import WiredStage
from milepost.journal import WakeUps
from milepost.observe.logs import Fields

log = logging.getLogger("gateway")

SEEN_WITHIN = 2.0
"""Seconds after which each bridge has seen a request: it looks every second."""


class PageWakeUps:
    """Asks at most once in the shortest `wake_after` of these stages, or in SEEN_WITHIN, over all gateways."""

    def __init__(self, stages: Iterable[WiredStage], redis: WakeUps) -> None:
        shortest = min((one.wake_after.total_seconds() for one in stages if one.wake == "page"), default=None)
        self._every = None if shortest is None else max(shortest, SEEN_WITHIN)
        self._redis = redis
        self._next = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    def form_asked(self, method: str) -> None:
        """Ask the bridges in the background: the form is shown without Redis, and does not wait for it."""
        if method != "GET" or self._every is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        self._asking = asyncio.create_task(self._ask(self._every))

    async def _ask(self, every: float) -> None:
        try:
            await self._redis.ask(Submission.channel, every=every)
        except JournalUnavailable as fault:
            self._next = time.monotonic() + SEEN_WITHIN  # no bridge was asked: a form that is opened later asks again
            log.warning(Fields(outcome="wake-up-not-asked", reason=str(fault)))

    async def close(self) -> None:
        if self._asking:
            self._asking.cancel()
            await asyncio.wait([self._asking])
