"""How many submissions one client may make: counted in Redis, so that every gateway counts together."""

import math
import time

from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from starlette.requests import Request

from gateway.client import client_of
from gateway.refusal import Refusal
from milepost.errors import JournalUnavailable
from milepost.journal import connection, keys


class RateLimit:
    """At most so many submissions a client, `text` of them as in `60/minute`. Another `purpose` is counted apart."""

    def __init__(self, text: str, redis_url: str, *, answer_within: float, purpose: str = "") -> None:
        self._item: RateLimitItem = parse(text)
        self._purpose = [purpose] if purpose else []
        self._limiter = SlidingWindowCounterRateLimiter(
            RedisStorage(
                f"async+{redis_url}",
                implementation="redispy",
                wrap_exceptions=True,
                key_prefix=keys.LIMITS,
                connection_pool=connection.pool(redis_url, answer_within=answer_within),  # type: ignore[arg-type]
            )
        )

    async def check(self, request: Request) -> None:
        """Count this request. Raises Refusal (429) when it is one too many, JournalUnavailable."""
        client = [*self._purpose, client_of(request)]
        try:
            if await self._limiter.hit(self._item, *client):
                return
            window = await self._limiter.get_window_stats(self._item, *client)
        except StorageError as fault:
            raise JournalUnavailable(f"Redis: {type(fault.storage_error).__name__}") from fault
        wait = max(1, math.ceil(window.reset_time - time.time()))
        raise Refusal(429, f"At most {self._item} from one address. Nothing was accepted.", retry_after=wait)
