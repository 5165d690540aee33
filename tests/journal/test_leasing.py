"""How it is kept, the lease: held by one bridge, told on a channel of its own in the step that takes it."""

import asyncio

from redis.asyncio import Redis

from milepost import keys
from milepost.journal import Upkeep
from milepost.journal.upkeep import HANDOVER
from tests.journal.events import heard
from tests.servers import eventually


async def test_a_free_lease_is_taken_and_told_in_one_step(upkeep: Upkeep, redis: Redis) -> None:
    async with heard(redis, keys.LEASE) as messages:
        assert await upkeep.lease("one", ttl=10, tell=False) == "one"
    assert messages == [(keys.LEASE, b"one")]
    assert await redis.get(keys.LEASE) == b"one"
    assert 9_000 < await redis.pttl(keys.LEASE) <= 10_000


async def test_of_many_bridges_one_gets_it(upkeep: Upkeep, redis: Redis) -> None:
    tokens = [f"bridge-{number}" for number in range(8)]
    async with heard(redis, keys.LEASE) as messages:
        holders = await asyncio.gather(*(upkeep.lease(token, ttl=10, tell=False) for token in tokens))
    assert len(set(holders)) == 1
    assert [message.decode() for _, message in messages] == holders[:1]


async def test_a_held_lease_is_not_lengthened_by_others(upkeep: Upkeep, redis: Redis) -> None:
    await upkeep.lease("one", ttl=10, tell=False)
    assert await upkeep.lease("two", ttl=99, tell=True) == "one"
    assert await redis.pttl(keys.LEASE) <= 10_000


async def test_its_holder_renews_it_and_tells_only_when_asked(upkeep: Upkeep, redis: Redis) -> None:
    await upkeep.lease("one", ttl=10, tell=False)
    async with heard(redis, keys.LEASE) as messages:
        assert await upkeep.lease("one", ttl=30, tell=False) == "one"
        assert await redis.pttl(keys.LEASE) > 20_000
        assert messages == []
        assert await upkeep.lease("one", ttl=30, tell=True) == "one"
    assert messages == [(keys.LEASE, b"one")]


async def test_an_expired_lease_is_free(upkeep: Upkeep, redis: Redis) -> None:
    await upkeep.lease("one", ttl=0.02, tell=False)

    async def taken() -> bool:
        return await upkeep.lease("two", ttl=10, tell=False) == "two"

    await eventually(taken)
    assert await upkeep.lease("one", ttl=10, tell=False) == "two"


async def test_a_clean_stop_frees_it_and_tells_the_others(upkeep: Upkeep, redis: Redis) -> None:
    await upkeep.lease("one", ttl=10, tell=False)
    async with heard(redis, keys.LEASE) as messages:
        assert await upkeep.release("one") is True
    assert messages == [(keys.LEASE, b"")]
    assert await upkeep.lease("two", ttl=10, tell=False, heard=True) == "two"


async def test_for_a_moment_a_freed_lease_is_for_those_who_heard_it(upkeep: Upkeep, redis: Redis) -> None:
    """One that subscribed later does not know what was published since; once nobody who does has come, it may lead."""
    await upkeep.lease("one", ttl=10, tell=False)
    await upkeep.release("one")
    assert await upkeep.lease("late", ttl=10, tell=True) == ""
    assert 0 < await redis.pttl(keys.LEASE) <= HANDOVER * 1000
    await redis.pexpire(keys.LEASE, 1)

    async def taken() -> bool:
        return await upkeep.lease("late", ttl=10, tell=False) == "late"

    await eventually(taken)


async def test_nobody_frees_what_is_not_theirs(upkeep: Upkeep, redis: Redis) -> None:
    await upkeep.lease("one", ttl=10, tell=False)
    async with heard(redis, keys.LEASE) as messages:
        assert await upkeep.release("two") is False
    assert messages == []
    assert await redis.get(keys.LEASE) == b"one"
    await upkeep.release("one")
    assert await upkeep.release("one") is False
