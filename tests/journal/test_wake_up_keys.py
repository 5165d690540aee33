"""Wake-ups in Redis: which form was opened, and which stages are starting."""

from redis.asyncio import Redis

from milepost.journal import Journal, keys
from tests.journal.events import RAW


async def test_first_form_that_was_opened_is_kept_for_a_time(journal: Journal, redis: Redis) -> None:
    assert await journal.wake_ups.asked() is None
    await journal.wake_ups.ask(RAW, every=60)
    await journal.wake_ups.ask("other", every=600)
    assert await journal.wake_ups.asked() == RAW
    assert 0 < await redis.pttl(keys.WAKE) <= 60_000
    await redis.set(keys.WAKE, b"\xff")  # of another program
    assert await journal.wake_ups.asked() == "�"


async def test_stage_is_starting_until_it_has_started_or_for_a_time(journal: Journal, redis: Redis) -> None:
    for stage in ("one", "two"):
        await journal.wake_ups.show_starting(stage, within=60)
        assert 0 < await redis.pttl(keys.starting(stage)) <= 60_000
    assert await journal.wake_ups.starting([]) == frozenset()
    assert await journal.wake_ups.starting(["one", "two", "three"]) == {"one", "two"}
    await journal.wake_ups.show_started("one", "three")
    assert await journal.wake_ups.starting(["one", "two", "three"]) == {"two"}
