"""How Milepost talks to Redis: short time-outs, one immediate retry where it can help, never a silent wait."""

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost

from milepost.settings import JournalSettings

ANSWER_WITHIN = 5.0
"""Seconds within which Redis answers a command that does not block."""


def limits(answer_within: float, *, retries: int = 1) -> dict[str, Any]:
    """What any client of ours is told: how long to wait for an answer, in seconds, and how often to try again."""
    return {
        "socket_timeout": answer_within,
        "socket_connect_timeout": min(answer_within, ANSWER_WITHIN),
        "retry": Retry(NoBackoff(), retries, supported_errors=(ConnectionLost,)),
    }


def connect(settings: JournalSettings, *, answer_within: float = ANSWER_WITHIN, retries: int = 1) -> Redis:
    """A client on bytes. The one retry covers a pooled connection that died unnoticed: every script of ours may
    run twice. A time-out is not retried: who did not answer in time once would only be waited for twice.
    Pass `retries=0` for XREADGROUP, whose lost reply would orphan what it carried, and an `answer_within` above its
    block time.
    """
    return Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_keepalive=True,
        client_name="milepost",
        **limits(answer_within, retries=retries),
    )
