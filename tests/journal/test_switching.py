"""A change of the delivery mode: the groups of the new mode take the place of those of the old one."""

import json

import pytest
from redis.asyncio import Redis

from milepost.journal import Bury, Complete, Consumer, Entry, Journal, Maintenance, Park, Wiring, keys
from tests.journal.conftest import Consumers
from tests.journal.events import (
    CALCULATED,
    RAW,
    SENT,
    abandoned,
    assert_bounded,
    everything,
    failure,
    made,
    overdue,
    settled,
    submission,
    taken,
    unserved,
)

DIRECT = {"distance": Wiring([RAW], [CALCULATED], ""), "store": Wiring([CALCULATED], [], "")}
BROKER = {"broker": Wiring([RAW, CALCULATED], [CALCULATED], "")}
DAY = 86_400
"""Seconds."""

FAN_OUT = {**DIRECT, "audit": Wiring([RAW], [], "")}
Routes = dict[str, Wiring]


async def served(maintenance: Maintenance, consumers: Consumers, routes: Routes) -> dict[str, Consumer]:
    """Begin to serve these routes as a bridge does. Returns its consumers: by stage, of the Broker by channel too."""
    assert await maintenance.switch(routes) is None
    await maintenance.beat(routes)
    joined = {
        f"{name} {channel}" if place else name: consumers(name, channel=channel)
        for name, wiring in routes.items()
        for place, channel in enumerate(wiring.consumes)
    }
    await made(*joined.values())
    return joined


async def stopped(redis: Redis, routes: Routes) -> None:
    """Let the last bridge of these routes be gone for a minute."""
    await unserved(redis, *routes)


async def groups(redis: Redis, channel: str = RAW) -> list[str]:
    return sorted(row["name"].decode() for row in await redis.xinfo_groups(keys.journal(channel)))


async def published(journal: Journal, count: int, channel: str = RAW) -> list[bytes]:
    events = [submission(channel=channel) for _ in range(count)]
    for event in events:
        await journal.publish(event)
    return [event.to_json().encode() for event in events]


async def take_all(consumer: Consumer) -> list[Entry]:
    return await consumer.take(1000)


async def finish(consumer: Consumer) -> list[bytes]:
    """Complete every event that there is for this consumer. Returns the events."""
    entries = await take_all(consumer)
    assert set(await consumer.settle([Complete(entry, "", None) for entry in entries])) <= {"done"}
    return [entry.event for entry in entries]


async def test_pause_does_not_end_with_the_delivery_mode(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    await served(maintenance, consumers, DIRECT)
    events = await published(journal, 1)
    await journal.admin.pause("store")  # has no event
    blocked = await maintenance.switch(BROKER)
    assert blocked is not None
    assert (blocked.reason.partition(",")[0], blocked.unfinished) == ("store is paused", True)
    await stopped(redis, DIRECT)
    assert await maintenance.switch(BROKER) == blocked
    await journal.admin.resume("store")
    assert await finish((await served(maintenance, consumers, BROKER))["broker"]) == events
    await journal.admin.pause("broker")
    await stopped(redis, BROKER)
    assert await maintenance.switch(DIRECT) is not None
    assert await groups(redis) == ["broker"]


async def test_switch_waits_while_more_events_are_under_way_than_one_step_can_move(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    """It waits before the bridges of the old mode end, so that they finish the events."""
    direct = await served(maintenance, consumers, DIRECT)
    await published(journal, 1)
    await taken(journal, direct["distance"])
    for stage, channel, events in (("distance", RAW, 99_999), ("store", CALCULATED, 1)):
        parked = {f"1-{number} 1 0 0 {channel}\n{{}}": 9e12 for number in range(events)}
        await redis.zadd(keys.parked(stage), parked)
    for _ in range(2):
        blocked = await maintenance.switch(BROKER)
        assert blocked is not None
        assert "more events" in blocked.reason
        assert blocked[1:] == (True, 100_001)
        await stopped(redis, DIRECT)
    assert await groups(redis) == ["distance"]
    await redis.delete(keys.parked("distance"))
    assert await maintenance.switch(BROKER) is None
    assert [await redis.xlen(keys.retries("broker", channel)) for channel in (RAW, CALCULATED)] == [1, 1]


@pytest.mark.parametrize("place", ["journal", "retries", "held", "parked"])
async def test_switch_waits_while_more_bytes_are_under_way_than_one_step_can_move(
    maintenance: Maintenance, redis: Redis, consumers: Consumers, place: str
) -> None:
    direct = await served(maintenance, consumers, DIRECT)
    large = f"{{}}{' ' * 65_000_000}"
    match place:
        case "journal":
            await redis.xadd(keys.journal(RAW), {"event": large})
            assert len(await take_all(direct["distance"])) == 1
        case "retries":
            await redis.xadd(keys.retries("distance", RAW), {"event": large})
        case "held":
            await redis.zadd(keys.held("distance", RAW), {large: 1})
        case _:
            await redis.zadd(keys.parked("distance"), {f"1-1 1 0 0 {RAW}\n{large}": 9e12})
    blocked = await maintenance.switch(BROKER)
    assert blocked is not None
    assert "more events" in blocked.reason
    assert blocked[1:] == (True, 1)


async def test_switch_does_not_wait_for_the_bytes_of_finished_events(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    """They stay in the journal until it is trimmed."""
    direct = await served(maintenance, consumers, DIRECT)
    await redis.xadd(keys.journal(RAW), {"event": f"{{}}{' ' * 65_000_000}"})
    await finish(direct["distance"])
    await published(journal, 1)
    assert len(await take_all(direct["distance"])) == 1
    await stopped(redis, DIRECT)
    assert await maintenance.switch(BROKER) is None


async def test_events_under_way_are_moved_though_the_user_may_not_ask_for_their_bytes(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    direct = await served(maintenance, consumers, DIRECT)
    events = await published(journal, 1)
    assert len(await take_all(direct["distance"])) == 1
    await stopped(redis, DIRECT)
    await redis.execute_command("ACL", "SETUSER", "default", "-memory|usage")
    try:
        broker = await served(maintenance, consumers, BROKER)
    finally:
        await redis.execute_command("ACL", "SETUSER", "default", "+memory|usage")
    assert await finish(broker["broker"]) == events


async def test_there_and_back_with_an_empty_backlog_repeats_nothing_and_leaves_no_group(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    direct = await served(maintenance, consumers, DIRECT)
    events = await published(journal, 5)
    assert await finish(direct["distance"]) == events
    await stopped(redis, DIRECT)
    broker = await served(maintenance, consumers, BROKER)
    assert [await take_all(consumer) for consumer in broker.values()] == [[], []]
    assert await groups(redis) == await groups(redis, CALCULATED) == ["broker"]
    assert await journal.backlog() == 0
    events = await published(journal, 3) + await published(journal, 2, CALCULATED)
    assert [event for consumer in broker.values() for event in await finish(consumer)] == events
    await stopped(redis, BROKER)
    direct = await served(maintenance, consumers, DIRECT)
    assert [await take_all(consumer) for consumer in direct.values()] == [[], []]
    assert (await groups(redis), await groups(redis, CALCULATED)) == (["distance"], ["store"])
    assert [stage.name for stage in await journal.admin.stages()] == ["distance", "store"]
    assert await journal.backlog() == 0
    await maintenance.trim(RAW)
    assert await redis.xlen(keys.journal(RAW)) == 0
    await assert_bounded(redis)


async def test_first_bridge_and_one_of_the_same_mode_have_nothing_to_take_over(
    maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    before = await everything(redis)
    assert await maintenance.switch(DIRECT) is None
    assert await everything(redis) == before
    await served(maintenance, consumers, DIRECT)
    before = await everything(redis)
    assert await maintenance.switch({"other": Wiring(["other"], [], "")}) is None
    assert await maintenance.switch(DIRECT) is None
    assert await everything(redis) == before


@pytest.mark.parametrize(("old", "new"), [(DIRECT, BROKER), (BROKER, DIRECT)], ids=["to broker", "to direct"])
async def test_every_event_that_was_left_is_delivered_once_more_to_its_heir(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, old: Routes, new: Routes
) -> None:
    """Finished events are not: the new group begins where the old one ended."""
    before = [*(await served(maintenance, consumers, old)).values()]
    raw, calculated = before[0], before[-1]
    await published(journal, 2)
    await published(journal, 2, CALCULATED)
    for consumer in {raw, calculated}:
        await finish(consumer)
    pending = await taken(journal, raw, 2) + await taken(journal, calculated, 1, channel=CALCULATED)
    parked = await taken(journal, raw, 1, channel=RAW)
    retried = await taken(journal, raw, 1, channel=RAW)
    read = await taken(journal, raw, 1, channel=RAW)
    await raw.settle([Park(entry, "", failure(attempts=3, crashes=1), 600) for entry in parked])
    await raw.settle([Park(entry, "", failure(attempts=2), 0) for entry in [*retried, *read]])
    await maintenance.retry_due([raw.stage], most=9)
    (again,) = await raw.take(1)
    unread = await published(journal, 3) + await published(journal, 1, CALCULATED)
    await stopped(redis, old)
    after = await served(maintenance, consumers, new)
    found = [entry for consumer in after.values() for entry in await take_all(consumer)]
    expected = [entry.event for entry in (*pending, *parked, *retried, *read)] + unread
    assert sorted(entry.event for entry in found) == sorted(expected)
    assert again.event in [entry.event for entry in found]
    kept = {entry.event: (entry.since, entry.attempts, entry.crashes, entry.channel) for entry in found}
    assert kept[parked[0].event] == (parked[0].since, 3, 1, RAW)
    assert kept[retried[0].event] == (retried[0].since, 2, 0, RAW)
    assert kept[pending[0].event] == (pending[0].since, 0, 0, RAW)
    assert {json.loads(event)["type"] for event in kept} == {RAW, CALCULATED}
    assert all(json.loads(event)["type"] == channel for event, (*_, channel) in kept.items())
    for name in old:
        assert not await redis.exists(keys.parked(name))
    assert not await redis.keys(f"{keys.RETRIES}{raw.stage}*")
    assert await journal.backlog() == len(expected)
    await assert_bounded(redis)


async def test_event_that_the_broker_was_given_goes_to_every_stage_of_its_channel(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    """A Broker has one delivery for all stages of a channel, so none of them has had the event."""
    broker = (await served(maintenance, consumers, BROKER))["broker"]
    pending = [entry.event for entry in await taken(journal, broker, 2)]
    unread = await published(journal, 1)
    await stopped(redis, BROKER)
    direct = await served(maintenance, consumers, FAN_OUT)
    for name in ("distance", "audit"):
        assert sorted(await finish(direct[name])) == sorted([*pending, *unread])
    assert await finish(direct["store"]) == []


def through(**stages: str) -> Routes:
    """The route of a Broker, at a bridge that serves these stages: name=channel."""
    behind = {name: Wiring([channel], [], "") for name, channel in stages.items()}
    return {"broker": Wiring(sorted(set(stages.values())), [], "", behind)}


@pytest.mark.parametrize("first", ["store", "audit"])
async def test_stages_of_another_bridge_get_what_the_broker_left_and_nothing_that_it_finished(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, first: str
) -> None:
    direct = {"store": Wiring([CALCULATED], [], ""), "audit": Wiring([CALCULATED], [], "")}
    second = "audit" if first == "store" else "store"
    broker = (await served(maintenance, consumers, through(store=CALCULATED)))["broker"]
    await served(maintenance, consumers, through(audit=CALCULATED))
    await published(journal, 2, CALCULATED)
    await finish(broker)
    left = await taken(journal, broker, 2)
    await settled(broker, Park(left[1], "", failure(attempts=3), 60))
    events = sorted([*(entry.event for entry in left), *await published(journal, 1, CALCULATED)])
    await stopped(redis, BROKER)
    one = await served(maintenance, consumers, {first: direct[first]})
    assert sorted(await finish(one[first])) == events
    await maintenance.trim(CALCULATED)
    assert {stage.name: (stage.served, stage.journaled) for stage in await journal.admin.stages()} == {
        first: (True, 0),
        second: (False, 3),
    }
    other = await served(maintenance, consumers, {second: direct[second]})
    assert sorted(await finish(other[second])) == events
    await maintenance.trim(CALCULATED)
    assert await journal.backlog() == 0
    await assert_bounded(redis)


async def test_channel_of_another_bridge_of_the_broker_refuses_no_switch(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    await served(maintenance, consumers, through(distance=RAW))
    await served(maintenance, consumers, through(store=CALCULATED))
    assert sorted((await journal.admin.table())["broker"]["consumes"]) == [CALCULATED, RAW]
    events = await published(journal, 1, CALCULATED)
    await stopped(redis, BROKER)
    await served(maintenance, consumers, {"distance": DIRECT["distance"]})
    store = (await served(maintenance, consumers, {"store": DIRECT["store"]}))["store"]
    assert await finish(store) == events
    assert (await groups(redis), await groups(redis, CALCULATED)) == (["distance"], ["store"])


async def test_channel_that_only_an_earlier_bridge_of_the_broker_consumed_is_switched_too(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    await served(maintenance, consumers, through(distance=RAW))
    events = await published(journal, 2)
    row = json.loads(await redis.hget(keys.STAGES, "broker"))
    row["behind"]["distance"]["beat"] -= 61_000
    await redis.hset(keys.STAGES, "broker", json.dumps(row))
    await served(maintenance, consumers, through(store=CALCULATED))
    assert (await journal.admin.table())["broker"]["consumes"] == [CALCULATED]
    await stopped(redis, BROKER)
    distance = (await served(maintenance, consumers, {"distance": DIRECT["distance"]}))["distance"]
    assert await groups(redis) == ["distance"]
    assert await finish(distance) == events


async def test_broker_forgets_a_stage_that_no_bridge_has_named_for_a_day(
    maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    await served(maintenance, consumers, through(gone=RAW))
    row = json.loads(await redis.hget(keys.STAGES, "broker"))
    row["behind"]["gone"]["beat"] -= DAY * 1000 + 1
    await redis.hset(keys.STAGES, "broker", json.dumps(row))
    await served(maintenance, consumers, through(distance=RAW))
    await stopped(redis, BROKER)
    await served(maintenance, consumers, {"distance": DIRECT["distance"]})
    assert await groups(redis) == ["distance"]


async def test_dead_letters_stay_and_are_replayed_in_the_new_mode(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    distance = (await served(maintenance, consumers, DIRECT))["distance"]
    (entry,) = await taken(journal, distance)
    await settled(distance, Bury(entry, "", failure()))
    await stopped(redis, DIRECT)
    broker = (await served(maintenance, consumers, BROKER))["broker"]
    (dead,) = await journal.admin.dead_letters("distance")
    assert await journal.backlog() == 1
    assert await journal.admin.replay("distance", [dead.entry]) == 1
    assert await finish(broker) == [entry.event]


async def test_parked_member_that_is_no_event_becomes_a_dead_letter(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    await served(maintenance, consumers, DIRECT)
    await redis.zadd(keys.parked("distance"), {"nonsense": 1})
    await stopped(redis, DIRECT)
    await served(maintenance, consumers, BROKER)
    (dead,) = await journal.admin.dead_letters("distance")
    assert dead.event == b"nonsense"
    await assert_bounded(redis)


# waiting


@pytest.mark.parametrize(("old", "new"), [(DIRECT, BROKER), (BROKER, DIRECT)], ids=["to broker", "to direct"])
async def test_switch_waits_while_the_other_mode_is_served(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, old: Routes, new: Routes
) -> None:
    await served(maintenance, consumers, old)
    await published(journal, 1)
    before = await everything(redis)
    blocked = await maintenance.switch(new)
    assert blocked is not None
    assert blocked.reason.startswith("the other delivery mode still serves ")
    assert not blocked.unfinished
    assert await everything(redis) == before
    first, *_ = old
    await unserved(redis, first)
    if len(old) > 1:
        assert await maintenance.switch(new) is not None, "another stage of it is still served"
    await unserved(redis, *[*old][1:])
    assert await maintenance.switch(new) is None


@pytest.mark.parametrize("has_groups", [True, False], ids=["groups", "no group"])
async def test_switch_waits_for_the_bridge_of_two_stages_of_a_channel_that_have_finished(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, has_groups: bool
) -> None:
    """Nothing is left that they would have to finish first, so their bridge may end."""
    direct = await served(maintenance, consumers, FAN_OUT)
    await published(journal, 1)
    for consumer in direct.values():
        await finish(consumer)
    for stage in () if has_groups else ("audit", "distance"):
        await redis.xgroup_destroy(keys.journal(RAW), stage)
    blocked = await maintenance.switch(BROKER)
    assert blocked is not None
    assert blocked.reason.startswith("the other delivery mode still serves ")
    assert not blocked.unfinished


async def test_switch_waits_for_the_bridge_of_stages_with_events_that_it_can_move(
    journal: Journal, maintenance: Maintenance, consumers: Consumers
) -> None:
    direct = await served(maintenance, consumers, DIRECT)
    await taken(journal, direct["distance"])
    blocked = await maintenance.switch(BROKER)
    assert blocked is not None
    assert blocked.reason.startswith("the other delivery mode still serves ")
    assert not blocked.unfinished


# refusals


async def refused(maintenance: Maintenance, redis: Redis, routes: Routes, events: int, stage: str) -> None:
    before = await everything(redis)
    reason = (
        f"the other delivery mode left events of {stage} that several stages would have to share: "
        "finish them in that mode first"
    )
    assert await maintenance.switch(routes) == (reason, True, events)
    assert await everything(redis) == before, "a refusal leaves everything as it was"


@pytest.mark.parametrize("how", ["pending", "parked", "retried"])
async def test_events_under_way_of_one_of_two_stages_of_a_channel_refuse_the_switch(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, how: str
) -> None:
    """The Broker would deliver them to the other stage as well, which has finished them."""
    direct = await served(maintenance, consumers, FAN_OUT)
    (entry,) = await taken(journal, direct["distance"])
    await finish(direct["audit"])
    if how != "pending":
        await settled(direct["distance"], Park(entry, "", failure(), 60))
    if how == "retried":
        await overdue(redis, keys.parked("distance"))
        await maintenance.retry_due(["distance"], most=9)
    await refused(maintenance, redis, BROKER, 1, "distance")  # its bridges must not end before
    await stopped(redis, FAN_OUT)
    await refused(maintenance, redis, BROKER, 1, "distance")
    # The operator finishes them in the old mode, and the switch is made.
    direct = await served(maintenance, consumers, FAN_OUT)
    await overdue(redis, keys.parked("distance"))
    await maintenance.retry_due(["distance"], most=9)
    await finish(direct["distance"])
    if how == "pending":
        await settled(direct["distance"], Complete(entry, "", None))
    await stopped(redis, FAN_OUT)
    broker = await served(maintenance, consumers, BROKER)
    assert [await take_all(consumer) for consumer in broker.values()] == [[], []]


async def test_held_event_of_one_of_two_stages_of_a_channel_refuses_the_switch(
    maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    await served(maintenance, consumers, FAN_OUT)
    await redis.zadd(keys.held("distance", RAW), {"key/1-0 - - -\n{}": 0})
    await refused(maintenance, redis, BROKER, 1, "distance")  # its bridges must not end before


async def test_two_stages_of_a_channel_that_have_read_to_different_entries_refuse_the_switch(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    direct = await served(maintenance, consumers, FAN_OUT)
    await published(journal, 2)
    await finish(direct["audit"])
    await stopped(redis, FAN_OUT)
    before = await everything(redis)
    assert "several stages would have to share" in str(await maintenance.switch(BROKER))
    assert await everything(redis) == before


async def test_two_stages_of_a_channel_with_an_empty_backlog_are_switched(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    direct = await served(maintenance, consumers, FAN_OUT)
    await published(journal, 2)
    for consumer in direct.values():
        await finish(consumer)
    unread = await published(journal, 2)
    await stopped(redis, FAN_OUT)
    broker = (await served(maintenance, consumers, BROKER))["broker"]
    assert await finish(broker) == unread
    assert await groups(redis) == ["broker"]


@pytest.mark.parametrize("how", ["unread", "pending", "parked"])
async def test_events_of_a_channel_that_the_new_mode_does_not_consume_refuse_the_switch(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, how: str
) -> None:
    routes = {"email": Wiring([SENT], [], "")}
    email = (await served(maintenance, consumers, routes))["email"]
    await published(journal, 1, SENT)
    if how != "unread":
        entries = await take_all(email)
        if how == "parked":
            await email.settle([Park(entry, "", failure(), 60) for entry in entries])
    await stopped(redis, routes)
    await refused(maintenance, redis, BROKER, 1, "email")


async def test_finished_channel_that_the_new_mode_does_not_consume_is_switched(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    routes = {**DIRECT, "email": Wiring([SENT], [], "")}
    direct = await served(maintenance, consumers, routes)
    await published(journal, 1, SENT)
    await finish(direct["email"])
    await stopped(redis, routes)
    await served(maintenance, consumers, BROKER)
    assert await groups(redis, SENT) == []
    await maintenance.trim(SENT)
    await assert_bounded(redis)
    other = (await served(maintenance, consumers, {"broker": Wiring([SENT], [], "")}))["broker"]
    assert await take_all(other) == [], "nor does another bridge of the Broker get them again"


# a frozen bridge of the old mode


@pytest.mark.parametrize(("old", "new"), [(DIRECT, BROKER), (BROKER, DIRECT)], ids=["to broker", "to direct"])
async def test_thawed_bridge_of_the_old_mode_does_not_make_its_groups_anew(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, old: Routes, new: Routes
) -> None:
    """It was frozen for more than a minute. Its beats, and a trim after them, must not bring its groups back."""
    frozen = await served(maintenance, consumers, old)
    raw = next(iter(frozen.values()))
    held = await taken(journal, raw, 2)
    await stopped(redis, old)
    after = await served(maintenance, consumers, new)
    assert len([event for consumer in after.values() for event in await finish(consumer)]) == 2
    before = [stage.name for stage in await journal.admin.stages()]

    assert await raw.settle([Complete(entry, "", None) for entry in held]) == ["stale"] * 2
    await maintenance.beat(old)
    assert not await raw.ensure()
    assert "still serves" in str(await maintenance.switch(old))
    assert await raw.renew(held) == held
    await raw.reap(idle=0)
    await raw.hand_back(claim=1)
    await maintenance.retry_due([*old], most=9)
    for channel in (RAW, CALCULATED):
        await maintenance.trim(channel)

    assert [stage.name for stage in await journal.admin.stages()] == before
    assert sorted({*await groups(redis), *await groups(redis, CALCULATED)}) == sorted(new)
    assert await journal.backlog() == 0
    assert await redis.xlen(keys.journal(RAW)) == 0
    await assert_bounded(redis)


async def test_thawed_bridge_takes_its_place_back_once_the_new_mode_has_ended(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    await served(maintenance, consumers, DIRECT)
    await stopped(redis, DIRECT)
    broker = (await served(maintenance, consumers, BROKER))["broker"]
    await published(journal, 1)
    await finish(broker)
    unread = await published(journal, 1)
    await maintenance.beat(DIRECT)
    await stopped(redis, BROKER)
    distance = (await served(maintenance, consumers, DIRECT))["distance"]
    assert await finish(distance) == unread
    assert await groups(redis) == ["distance"]


async def test_stage_that_is_added_to_a_served_mode_is_shown(
    journal: Journal, maintenance: Maintenance, consumers: Consumers
) -> None:
    await served(maintenance, consumers, DIRECT)
    await served(maintenance, consumers, FAN_OUT)
    assert [stage.name for stage in await journal.admin.stages()] == ["audit", "distance", "store"]


async def test_abandoned_entries_of_the_old_mode_are_moved_once(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    """Two bridges of the new mode start together."""
    distance = (await served(maintenance, consumers, DIRECT))["distance"]
    entries = await taken(journal, distance, 3)
    await abandoned(redis, distance, *entries)
    await stopped(redis, DIRECT)
    for _ in range(2):
        broker = (await served(maintenance, consumers, BROKER))["broker"]
    assert await finish(broker) == [entry.event for entry in entries]
