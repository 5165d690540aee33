"""Limits on the requests of one client, counted in Redis for all gateways together."""

import math
import time
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from redis.asyncio import Redis
from starlette.requests import Request

from gateway.refusal import Refusal
from milepost.errors import JournalUnavailable
from milepost.journal import keys
from milepost.journal.connection import pool_of

ONE_SITE = 64
"""Bits of an IPv6 address that are the subscriber's; they choose the others as they like (RFC 4291, 2.5.4)."""

TRANSLATED = ip_network("64:ff9b::/96")
"""IPv4 clients as an IPv6-only network sees them: the last 32 bits are theirs (RFC 6052, 2.1)."""


class RateLimit:
    """At most so many requests of a client, `text` of them as in `60/minute`. Each `purpose` is counted apart."""

    def __init__(self, text: str, redis: Redis, *, purpose: str = "") -> None:
        self._item: RateLimitItem = parse(text)
        self._purpose = [purpose] if purpose else []
        self._limiter = SlidingWindowCounterRateLimiter(
            RedisStorage(
                "async+redis://",
                implementation="redispy",
                wrap_exceptions=True,
                key_prefix=keys.LIMITS,
                connection_pool=pool_of(redis),  # type: ignore[arg-type]
            )
        )

    async def check(self, request: Request) -> None:
        """Count this request. Raises Refusal (429) when it is over the limit, JournalUnavailable."""
        client = [*self._purpose, client_of(request)]
        try:
            if await self._limiter.hit(self._item, *client):
                return
            window = await self._limiter.get_window_stats(self._item, *client)
        except StorageError as fault:
            raise JournalUnavailable(f"Redis: {type(fault.storage_error).__name__}") from fault
        raise over_limit(str(self._item), retry_after=max(1, math.ceil(window.reset_time - time.time())))


def over_limit(limit: str, *, retry_after: int) -> Refusal:
    return Refusal(429, f"At most {limit} from one address. Nothing was done.", retry_after=retry_after)


def client_of(request: Request) -> str:
    """Return the client's address, or the one that a trusted proxy names (FORWARDED_ALLOW_IPS); of IPv6 the /64."""
    host = request.client.host if request.client else "unknown"
    try:
        address = ip_address(host.partition("%")[0])  # without the zone of a link-local one
    except ValueError:  # a proxy's word for it, or a socket that has no address
        return host
    if not isinstance(address, IPv6Address) or address.is_link_local:
        return str(address)
    if address in TRANSLATED:
        return str(IPv4Address(int(address) & 0xFFFFFFFF))
    return str(address.ipv4_mapped or ip_network((address, ONE_SITE), strict=False))
