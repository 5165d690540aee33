"""Another pipeline on the same Redis: it would take our events, and we would take its."""

import asyncio
import time

from milepost import keys
from milepost.cli import reach
from milepost.journal import StageStatus
from milepost.settings import JournalSettings

RENEWED_WITHIN = 4.0
"""Seconds within which a bridge that leads renews its lease, if `LEASE` is not longer than by default."""

LOOK_EVERY = 0.1


async def served_elsewhere(settings: JournalSettings) -> list[StageStatus]:
    """The stages that bridges serve on this Redis now.

    A beat stays fresh for a minute after its bridge has ended, but not the lease: a clean stop frees it, and without
    one it runs out unrenewed. Only then this takes long: until it has run out, at most RENEWED_WITHIN seconds.
    Raises Unreachable, JournalUnavailable.
    """
    async with reach.journal(settings) as journal:
        end = time.monotonic() + RENEWED_WITHIN
        left = await journal.ask(journal.redis.pttl(keys.LEASE))
        while left > 0 and time.monotonic() < end:
            await asyncio.sleep(LOOK_EVERY)
            before, left = left, await journal.ask(journal.redis.pttl(keys.LEASE))
            if left > before:
                return [stage for stage in await journal.stages() if stage.served]
    return []


async def listening(settings: JournalSettings) -> int:
    """How many bridges hear this Redis now, one's own among them. Raises Unreachable, JournalUnavailable."""
    async with reach.journal(settings) as journal:
        ((_, bridges),) = await journal.ask(journal.redis.pubsub_numsub(keys.LEASE))
        return int(bridges)
