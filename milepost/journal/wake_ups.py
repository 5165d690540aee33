"""Wake-ups in Redis: the form that a visitor has opened, and the stages that are starting. All of it expires."""

from collections.abc import Iterable

from redis.asyncio import Redis

from milepost.journal import keys
from milepost.journal.models import name_text
from milepost.journal.scripts import ask


class WakeUps:
    """Each method is one command, and raises JournalUnavailable. Times are in seconds."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def ask(self, channel: str, *, every: float) -> None:
        """Ask bridges to wake the stages that an event on this channel reaches. Nothing happens if someone asked before
        within `every` seconds.
        """
        await ask(self._redis.set(keys.WAKE, channel, nx=True, px=round(every * 1000)))

    async def asked(self) -> str | None:
        """Return the channel that someone has asked for, or None."""
        channel = await ask(self._redis.get(keys.WAKE))
        return None if channel is None else name_text(channel)

    async def show_starting(self, stage: str, *, within: float) -> None:
        """Show that a stage is starting, until `show_started`, at most so many seconds."""
        await ask(self._redis.set(keys.starting(stage), b"", px=round(within * 1000)))

    async def show_started(self, *stages: str) -> None:
        await ask(self._redis.delete(*map(keys.starting, stages)))

    async def starting(self, stages: Iterable[str]) -> frozenset[str]:
        """Return those of the stages that are starting."""
        names = list(stages)
        found = await ask(self._redis.mget([keys.starting(name) for name in names])) if names else []
        return frozenset(name for name, value in zip(names, found, strict=True) if value is not None)
