"""The lease: one bridge holds it, and the step that takes it announces it on a channel of its own."""

import asyncio

import pytest
from redis.asyncio import Redis

from milepost.journal import Maintenance, keys
from milepost.journal.maintenance import HANDOVER
from tests.journal.events import heard
from tests.servers import eventually


async def test_free_lease_is_taken_and_announced_in_one_step(maintenance: Maintenance, redis: Redis) -> None:
    async with heard(redis, keys.LEASE) as messages:
        assert await maintenance.lease("one", ttl=10, known=None) == "one"
    assert messages == [(keys.LEASE, b"one")]
    assert await redis.get(keys.LEASE) == b"one"
    assert 9_000 < await redis.pttl(keys.LEASE) <= 10_000


async def test_lease_that_is_taken_again_is_announced_to_all_though_the_bridge_knows_itself(
    maintenance: Maintenance, redis: Redis
) -> None:
    """Another bridge may have led since, whose token this bridge has not received yet."""
    async with heard(redis, keys.LEASE) as messages:
        assert await maintenance.lease("one", ttl=10, known="one") == "one"
    assert messages == [(keys.LEASE, b"one")]


async def test_one_of_many_bridges_gets_the_lease(maintenance: Maintenance, redis: Redis) -> None:
    tokens = [f"bridge-{number}" for number in range(8)]
    async with heard(redis, keys.LEASE) as messages:
        holders = await asyncio.gather(*(maintenance.lease(token, ttl=10, known=None) for token in tokens))
    assert len(set(holders)) == 1
    assert {message.decode() for _, message in messages} == set(holders)


async def test_held_lease_is_not_prolonged_by_others(maintenance: Maintenance, redis: Redis) -> None:
    await maintenance.lease("one", ttl=10, known=None)
    assert await maintenance.lease("two", ttl=99, known=None) == "one"
    assert await redis.pttl(keys.LEASE) <= 10_000


async def test_renewal_announces_the_holder_only_to_a_bridge_that_does_not_know_it(
    maintenance: Maintenance, redis: Redis
) -> None:
    await maintenance.lease("one", ttl=10, known=None)
    async with heard(redis, keys.LEASE) as messages:
        assert await maintenance.lease("one", ttl=30, known="one") == "one"
        assert await redis.pttl(keys.LEASE) > 20_000
        assert await maintenance.lease("two", ttl=30, known="one") == "one"
    assert messages == []
    async with heard(redis, keys.LEASE) as messages:
        assert await maintenance.lease("one", ttl=30, known=None) == "one"
        assert await maintenance.lease("two", ttl=30, known="before") == "one"
    assert messages == [(keys.LEASE, b"one")] * 2


async def test_expired_lease_is_free(maintenance: Maintenance, redis: Redis) -> None:
    await maintenance.lease("one", ttl=0.02, known=None)

    async def taken() -> bool:
        return await maintenance.lease("two", ttl=10, known=None) == "two"

    await eventually(taken)
    assert await maintenance.lease("one", ttl=10, known=None) == "two"


@pytest.mark.parametrize("left", [3_600_000, None], ids=["an hour", "for ever"])
async def test_lease_that_lasts_far_too_long_is_shortened(
    maintenance: Maintenance, redis: Redis, left: int | None
) -> None:
    """As after the server's clock was set back by an hour."""
    await redis.set(keys.LEASE, "dead", px=left)
    assert await maintenance.lease("two", ttl=10, known=None) == "dead"
    assert 0 < await redis.pttl(keys.LEASE) <= 10_000


async def test_clean_stop_releases_the_lease_and_announces_that(maintenance: Maintenance, redis: Redis) -> None:
    await maintenance.lease("one", ttl=10, known=None)
    async with heard(redis, keys.LEASE) as messages:
        assert await maintenance.release("one") is True
    assert messages == [(keys.LEASE, b"")]
    assert await maintenance.lease("two", ttl=10, known="") == "two"


async def test_released_lease_is_for_a_moment_for_bridges_that_received_the_release(
    maintenance: Maintenance, redis: Redis
) -> None:
    """A bridge that subscribed later misses messages published since; it may lead once the handover is over."""
    await maintenance.lease("one", ttl=10, known=None)
    await maintenance.release("one")
    async with heard(redis, keys.LEASE) as messages:
        assert await maintenance.lease("late", ttl=10, known=None) == ""
    assert messages == [], "else this bridge would have received a release that came before it"
    assert 0 < await redis.pttl(keys.LEASE) <= HANDOVER * 1000
    await redis.pexpire(keys.LEASE, 1)

    async def taken() -> bool:
        return await maintenance.lease("late", ttl=10, known=None) == "late"

    await eventually(taken)


async def test_bridge_cannot_release_the_lease_of_another(maintenance: Maintenance, redis: Redis) -> None:
    await maintenance.lease("one", ttl=10, known=None)
    async with heard(redis, keys.LEASE) as messages:
        assert await maintenance.release("two") is False
    assert messages == []
    assert await redis.get(keys.LEASE) == b"one"
    await maintenance.release("one")
    assert await maintenance.release("one") is False
