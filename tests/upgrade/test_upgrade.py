"""An upgrade from 0.1 with events under way: `redis-0.1.jsonl` is what 0.1 left when it was killed (see fill.py)."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis

from milepost.journal import keys
from tests.bridge.rig import Rig, Script, Stage, status
from tests.servers import Valkey, eventually
from tests.upgrade import snapshot
from tests.upgrade.fill import ROUTES

LEFT = (Path(__file__).parent / "redis-0.1.jsonl").read_text()

FIRST = {"pending", "woken", "parked", "unread-1", "unread-2"}
"""Ids of the events that the stage `first` had not finished."""


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A Redis as 0.1 left it two hours ago."""
    with Valkey(tmp_path) as valkey:
        async with Redis.from_url(valkey.url) as redis:
            await snapshot.restore(redis, LEFT, age=timedelta(hours=2))
            rig = Rig(valkey.url, redis, tmp_path)
            yield rig
            await rig.close()
            assert not rig.faults


@pytest.fixture
async def stages(rig: Rig) -> dict[str, Stage]:
    """The stages of 0.1, and today's bridge that serves them."""
    return await upgraded(rig)


async def upgraded(rig: Rig, first: Script | None = None) -> dict[str, Stage]:
    scripts = {"first": first}
    made = {
        name: await rig.stage(name, str(route["consumes"]), route.get("emits"), scripts.get(name))
        for name, route in ((str(route["name"]), route) for route in ROUTES)
    }
    tries = {str(r["name"]): {"delay": r["delay"]} for r in ROUTES if "delay" in r}
    await rig.bridge(routes=[stage.route(**tries.get(name, {})) for name, stage in made.items()])
    return made


async def settled(rig: Rig, stages: dict[str, Stage]) -> bool:
    return all([await rig.settled(stage) for stage in stages.values()])


async def test_each_event_under_way_is_delivered_once(rig: Rig, stages: dict[str, Stage]) -> None:
    await eventually(lambda: set(stages["first"].count) == FIRST, what="the events of `first`")
    await eventually(lambda: set(stages["second"].count) == {*FIRST, "halfway"}, what="the events of `second`")
    await eventually(lambda: stages["copy"].count == {"unread-1": 1, "unread-2": 1}, what="the events of `copy`")
    await eventually(lambda: stages["late"].count == {"held": 1}, what="the event that was held back")
    await eventually(lambda: settled(rig, stages), what="nothing is under way")
    assert stages["first"].count == dict.fromkeys(FIRST, 1)
    assert stages["second"].count == dict.fromkeys({*FIRST, "halfway"}, 1)


async def test_failed_attempts_of_0_1_still_count(rig: Rig) -> None:
    await upgraded(rig, lambda _: status(422))
    failed_before = {"dead": 0, "pending": 0, "woken": 1, "parked": 1, "unread-1": 0, "unread-2": 0}

    async def all_dead() -> bool:
        return {letter.id: letter.attempts for letter in await rig.dead("first")} == failed_before

    await eventually(all_dead, what="a dead letter of each, with its failed attempts")


async def test_retry_of_a_producer_is_recognised(rig: Rig, stages: dict[str, Stage]) -> None:
    assert not await rig.publish("in", "done-1")
    assert not await rig.publish("in", "parked")
    assert await rig.publish("in", "new")
    await eventually(lambda: stages["second"].count["new"])
    assert not stages["first"].count["done-1"]


async def test_dead_letters_are_listed_and_replayed(rig: Rig, stages: dict[str, Stage]) -> None:
    (letter,) = await rig.dead("first")
    (unreadable,) = await rig.dead("bridge")
    assert b'"id":""' in unreadable.event
    assert await rig.journal.admin.replay("first", [letter.entry]) == 1
    await eventually(lambda: stages["second"].count["dead"])
    assert stages["copy"].count["dead"] == 0
    assert await rig.dead("first") == []


async def test_keys_that_are_not_used_any_more_end_or_are_gone(rig: Rig, stages: dict[str, Stage]) -> None:
    await eventually(lambda: set(stages["second"].count) == {*FIRST, "halfway"})
    await eventually(lambda: settled(rig, stages))
    lasting = {keys.JOURNALS, keys.STAGES, keys.DEAD, keys.STATS, keys.dead("first"), keys.dead("bridge")}
    lasting |= {keys.journal(channel) for channel in ("in", "middle", "tomorrow")}

    async def left() -> set[str]:
        found = {key async for key in rig.redis.scan_iter()}
        return {key.decode() for key in found if await rig.redis.pttl(key) == -1} - lasting

    async def only_what_is_counted() -> bool:
        return {key for key in await left() if ":retries:" not in key and ":out" not in key} == set()

    await eventually(only_what_is_counted, what="no key without an end beside those in use")
    ends = [await rig.redis.pttl(key) async for key in rig.redis.scan_iter(match="{milepost}:progress:*")]
    assert ends
    assert max(ends) <= timedelta(hours=25) / timedelta(milliseconds=1)
