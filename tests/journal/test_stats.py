"""Statistics of the last minute: each bridge writes its own to Redis, and all are read together."""

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from milepost.errors import JournalUnavailable
from milepost.journal import Journal, keys
from milepost.journal.stats import KEPT, SECONDS, Counts, Slot, read, write
from tests.journal.events import everything


def counts(delivered: int = 1, **more: int) -> Counts:
    return Counts(delivered=delivered, seconds=within(**{"0.01": delivered}), **more)


def within(**buckets: int) -> tuple[int, ...]:
    """Return counts by bucket, given as bound and count."""
    return tuple(buckets.get(str(bound), 0) for bound in (*SECONDS, "more"))


async def test_written_slots_are_read(journal: Journal) -> None:
    slots = [Slot(9.0, counts(3)), Slot(0.0, counts(2, dead=1))]
    await write(journal.scripts, "bridge-1", {"distance": slots})
    [first, second] = (await read(journal.scripts))["distance"]
    assert (first.counts, second.counts) == (counts(3), counts(2, dead=1))
    assert first.age - second.age == pytest.approx(9)


async def test_slots_of_all_bridges_are_read_for_each_stage(journal: Journal) -> None:
    for bridge in ("bridge-1", "bridge-2"):
        await write(journal.scripts, bridge, {"distance": [Slot(0, counts(2))], "store": [Slot(0, counts(1))]})
    found = await read(journal.scripts)
    assert {stage: sum(slot.counts.delivered for slot in slots) for stage, slots in found.items()} == {
        "distance": 4,
        "store": 2,
    }


async def test_bridge_replaces_its_own_slots(journal: Journal) -> None:
    for delivered in (1, 5):
        await write(journal.scripts, "bridge-1", {"distance": [Slot(0, counts(delivered))]})
    assert [slot.counts.delivered for slot in (await read(journal.scripts))["distance"]] == [5]


async def test_slots_older_than_a_minute_are_not_read(journal: Journal) -> None:
    await write(journal.scripts, "bridge-1", {"distance": [Slot(KEPT, counts()), Slot(0, counts(7))]})
    assert [slot.counts.delivered for slot in (await read(journal.scripts))["distance"]] == [7]


async def test_keys_expire_within_a_minute(journal: Journal, redis: Redis) -> None:
    key = keys.stats("distance", "bridge-1")
    await write(journal.scripts, "bridge-1", {"distance": [Slot(0, counts())]})
    assert 0 < await redis.pttl(key) <= KEPT * 1000
    # As if that minute had passed.
    await redis.delete(key)
    await redis.zadd(keys.STATS, {key: 1})
    assert await read(journal.scripts) == {}
    await write(journal.scripts, "bridge-2", {"store": [Slot(0, counts())]})
    assert await redis.zrange(keys.STATS, 0, -1) == [keys.stats("store", "bridge-2").encode()]


async def test_full_redis_refuses_the_whole_write(
    journal: Journal, redis: Redis, full: Callable[[], Awaitable[None]]
) -> None:
    await full()
    before = await everything(redis)
    with pytest.raises(JournalUnavailable, match="full"):
        await write(journal.scripts, "bridge-1", {"distance": [Slot(0, counts())]})
    assert await everything(redis) == before


@pytest.mark.parametrize(
    "text",
    [
        '{"at":%d,"stage":"distance","slots":[[0,1,2,3],[0,1,1,0,0,0,[1,2]]]}',
        '{"at":%d,"stage":"distance","slots":[[0,1,1,0,0,[1,2]]]}',
        '{"at":%d,"stage":"distance","slots":[7]}',
        '{"at":%d,"stage":"distance","slots":[["0","1","1","0","0",[' + ",".join(["0"] * (len(SECONDS) + 1)) + "]]]}",
        '{"at":%d,"stage":"distance","slots":[[0,1,1,0,"0",[' + ",".join(["0"] * (len(SECONDS) + 1)) + "]]]}",
        '{"at":"%d","stage":"distance","slots":[[0]]}',
        "[]",
        "",
        None,
    ],
)
async def test_slots_of_another_form_are_left_out(journal: Journal, redis: Redis, text: str | None) -> None:
    key = keys.stats("distance", "newer")
    await write(journal.scripts, "newer", {"distance": [Slot(0, counts())]})
    await write(journal.scripts, "ours", {"store": [Slot(0, counts())]})
    seconds, _ = await redis.time()
    if text is None:
        await redis.delete(key)
        await redis.hset(key, "of", "another type")
    else:
        await redis.set(key, text.replace("%d", str(seconds * 1000)))
    found = await read(journal.scripts)
    assert (found.get("distance", []), len(found["store"])) == ([], 1)


def test_quantile_is_interpolated_within_its_bucket() -> None:
    assert Counts().quantile(0.5) is None
    even = Counts(seconds=within(**{"0.01": 100}))
    assert even.quantile(0.5) == pytest.approx(0.0075)
    assert even.quantile(0.99) == pytest.approx(0.00995)
    mixed = Counts(seconds=within(**{"0.01": 98, "1.0": 2}))
    assert mixed.quantile(0.5) == pytest.approx(0.005 + 0.005 * 50 / 98)
    assert mixed.quantile(0.99) == pytest.approx(0.75)
    assert Counts(seconds=within(**{"0.01": 1, "more": 9})).quantile(0.99) == SECONDS[-1]
    assert Counts(seconds=within(**{"0.01": 1})).quantile(0.5) == pytest.approx(0.0075)
    assert Counts(seconds=within(**{"0.001": 4})).quantile(0.5) == pytest.approx(0.0005)
    assert Counts(seconds=within(**{"0.01": 50, "1.0": 50})).quantile(0.5) == pytest.approx(0.01)


def test_counts_add_up() -> None:
    assert counts(2) + counts(3, dead=1) - counts(3) == counts(2, dead=1)
    assert not counts(2) - counts(2)
