"""The Lua scripts, each one atomic step over a batch."""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError

from milepost.connection import WrongServer
from milepost.errors import JournalUnavailable
from milepost.line import Line

Text = str | bytes | int

_FOLDER = files("milepost.journal") / "lua"
_COMMON = (_FOLDER / "common.lua").read_text()


class Scripts:
    """Runs scripts by name, on one line to the server of `redis`, which is for plain commands."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.line = Line(redis)
        self._texts: dict[str, tuple[str, str]] = {}

    async def run(self, name: str, keys: Sequence[Text], arguments: Sequence[Text]) -> Any:
        """Run `lua/<name>.lua`. Raises JournalUnavailable when Redis cannot be reached or refuses."""
        digest, text = self._texts.get(name) or self._read(name)
        try:
            try:
                return await self.line.call("EVALSHA", digest, len(keys), *keys, *arguments)
            except NoScriptError:
                return await self.line.call("EVAL", text, len(keys), *keys, *arguments)
        except (RedisError, OSError) as fault:
            raise unavailable(fault) from fault

    async def close(self) -> None:
        """Close every connection."""
        await self.line.close()
        await self.redis.aclose()

    def _read(self, name: str) -> tuple[str, str]:
        text = _COMMON + (_FOLDER / f"{name}.lua").read_text()
        self._texts[name] = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), text
        return self._texts[name]


def checked(answers: Sequence[bytes]) -> list[str]:
    """A batch's answers as text. Raises JournalUnavailable if one of them is an error.

    An error that means "look again" never comes here: the connection raises it (milepost.connection.wrong_server).
    """
    texts = [answer.decode() for answer in answers]
    for text in texts:
        if text.startswith("error "):
            raise unavailable(RedisError(text.removeprefix("error ")))
    return texts


def unavailable(fault: Exception) -> JournalUnavailable:
    """The fault of a Redis call in our own words; redis-py names hosts, never passwords."""
    if isinstance(fault, OutOfMemoryError) or "OOM" in str(fault):
        return JournalUnavailable("Redis is full")
    if isinstance(fault, WrongServer):
        return JournalUnavailable(str(fault))
    return JournalUnavailable(f"Redis: {str(fault) or type(fault).__name__}")
