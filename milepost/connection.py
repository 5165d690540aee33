"""How Milepost talks to Redis: short time-outs, one immediate retry, never a silent wait."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from milepost.settings import JournalSettings

ANSWER_WITHIN = 5.0
"""Seconds within which Redis answers a command that does not block."""


def connect(settings: JournalSettings, *, answer_within: float = ANSWER_WITHIN, retries: int = 1) -> Redis:
    """A client on bytes. The one retry covers a pooled connection that died unnoticed: every script of ours may
    run twice. Pass `retries=0` for XREADGROUP, whose lost reply would orphan what it carried, and an
    `answer_within` above its block time.
    """
    return Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=answer_within,
        socket_connect_timeout=ANSWER_WITHIN,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), retries),
        client_name="milepost",
    )
