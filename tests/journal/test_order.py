"""A stage that is ordered by key: of each key one event at a time, in the order of the journal."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from milepost.check.waiting import Waiting
from milepost.errors import JournalUnavailable
from milepost.events.event import Event
from milepost.journal import (
    BROKER,
    Bury,
    Complete,
    Consumer,
    Delay,
    Entry,
    GroupMissing,
    Journal,
    Maintenance,
    Park,
    SettlementRefused,
    Split,
    Wiring,
    keys,
)
from milepost.journal import consumer as journal_consumer
from milepost.journal import maintenance as journal_maintenance
from tests.journal.conftest import Consumers
from tests.journal.events import (
    CALCULATED,
    CLAIM,
    RAW,
    READY,
    SENT,
    abandoned,
    event_of,
    failure,
    overdue,
    settled,
    unserved,
)
from tests.servers import eventually

STAGE = "mail"
HELD, IN_HAND, RETRIES = keys.held(STAGE, RAW), keys.in_hand(STAGE, RAW), keys.retries(STAGE, RAW)


async def publish(journal: Journal, *ids: str, channel: str = RAW) -> None:
    """Publish events: the letter of an id is its key, such as `a` of `a1`."""
    for one in ids:
        await journal.publish(Event(id=one, source="/tests", type=channel, data={"key": one[0]}))


def ids(entries: Sequence[Entry]) -> list[str]:
    return [event_of(entry).id for entry in entries]


async def take(consumer: Consumer, most: int = 99) -> list[Entry]:
    return await consumer.take(most)


async def complete(consumer: Consumer, *entries: Entry) -> None:
    assert await consumer.settle([Complete(entry, event_of(entry).id, None) for entry in entries]) == [
        "done" for _ in entries
    ]


async def park(consumer: Consumer, entry: Entry, *, delay: float = 0) -> None:
    assert await settled(consumer, Park(entry, event_of(entry).id, failure(), delay)) == "done"


async def bury(consumer: Consumer, entry: Entry) -> None:
    assert await settled(consumer, Bury(entry, event_of(entry).id, failure("no"))) == "buried"


async def all_of(consumer: Consumer) -> list[str]:
    """Complete everything, one round after the other. Returns the ids in the order of their delivery."""
    seen: list[str] = []
    while entries := await take(consumer):
        seen += ids(entries)
        await complete(consumer, *entries)
    return seen


async def serve(maintenance: Maintenance, channel: str = RAW) -> None:
    await maintenance.beat({STAGE: Wiring([channel], [], "", order="key")})


@pytest.fixture
async def mail(redis: Redis, maintenance: Maintenance, consumers: Consumers) -> Consumer:
    await serve(maintenance)
    consumer = consumers(STAGE, order="key")
    await consumer.ensure()
    return consumer


async def test_one_event_of_a_key_at_a_time_and_other_keys_beside_it(
    journal: Journal, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1", "a2", "b1", "a3", "c1", "b2")
    first = await take(mail)
    assert ids(first) == ["a1", "b1", "c1"]
    assert all(not entry.retried and entry.stream == keys.journal(RAW) for entry in first)
    assert await take(mail) == []
    await complete(mail, *first)
    second = await take(mail)
    assert ids(second) == ["a2", "b2"]
    assert all(not entry.retried and entry.stream == RETRIES for entry in second)
    await complete(mail, *second)
    assert await all_of(mail) == ["a3"]
    assert not await redis.exists(HELD, IN_HAND)


async def test_next_of_a_key_starts_in_the_step_that_ends_the_one_before(
    journal: Journal, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1", "a2")
    (entry,) = await take(mail)
    reply = Event(id="a1", source="/milepost/mail", type=CALCULATED)
    assert await settled(mail, Complete(entry, "a1", reply)) == "done"
    assert [json.loads(fields[b"event"])["id"] for _, fields in await redis.xrange(RETRIES)] == ["a2"]
    (entry,) = await take(mail)
    assert await settled(mail, Split(entry, "a2", [Event(id="a2/0", source="/m", type=CALCULATED)])) == "done"
    assert not await redis.exists(IN_HAND)


@pytest.mark.parametrize(
    "values",
    [("x", "x"), (1, 1.0), (0, -0.0), (True, True), ("", ""), (0.1, 0.1), (-3, -3), ("ü", "ü"), ("a/b c\n", "a/b c\n")],
)
async def test_same_text_number_or_boolean_is_one_key(journal: Journal, mail: Consumer, values: Sequence[Any]) -> None:
    for number, value in enumerate(values):
        await journal.publish(Event(id=str(number), source="/tests", type=RAW, data={"key": value}))
    assert ids(await take(mail)) == ["0"]


@pytest.mark.parametrize("half", ["\ud83d", "\ude00\ud83d", "\\ud83d \ud83d"])
async def test_event_with_half_a_surrogate_pair_has_its_key(journal: Journal, mail: Consumer, half: str) -> None:
    """JSON allows it, and the decoder of Redis does not."""
    smile = "a\U0001f600"
    for number, data in enumerate(({"key": smile}, {"key": smile, "text": half}, {"key": half}, {"key": half})):
        await journal.publish(Event(id=str(number), source="/tests", type=RAW, data=data))
    assert ids(await take(mail)) == ["0", "2"]


async def test_values_that_differ_are_different_keys(journal: Journal, mail: Consumer) -> None:
    values = ("1", 1, 1.5, True, "true", False, "", "a", "A", " a", 2**53, 2**53 + 2, 1e-30, 2e-30)
    for number, value in enumerate(values):
        await journal.publish(Event(id=str(number), source="/tests", type=RAW, data={"key": value}))
    assert len(await take(mail)) == len(values)


@pytest.mark.parametrize("data", [None, {}, [], ["key"], "key", 7, {"key": None}, {"key": {}}, {"key": ["x"]}])
async def test_event_without_a_key_has_no_order(journal: Journal, redis: Redis, mail: Consumer, data: Any) -> None:
    for number in range(2):
        await journal.publish(Event(id=str(number), source="/tests", type=RAW, data=data))
    entries = await take(mail)
    assert ids(entries) == ["0", "1"]
    assert not any(entry.retried for entry in entries)
    await complete(mail, *entries)
    assert not await redis.exists(HELD, IN_HAND)


@pytest.mark.parametrize("event", ["no JSON", "5", "[]", '"text"', "", '{"data":' + "[" * 2000])
async def test_entry_that_is_no_event_is_delivered_without_order(redis: Redis, mail: Consumer, event: str) -> None:
    for _ in range(2):
        await redis.xadd(keys.journal(RAW), {"event": event})
    assert [entry.event for entry in await take(mail)] == [event.encode()] * 2


WITH_KEY = [
    '"data":{"e-mail":"1"}',
    '"data":{"e-mail":"2","mail":"another"}',
    '"data":{"e-mail":"another","e-mail":"3"}',
    '"data":{"e-mail":"","name":"4"}',
    '"data":{"name":{"e-mail":"another"},"e-mail":"5"}',
    '"data":{"name":"[","e-mail":"6"}',
    '"e-mail":"another","data":{"e-mail":"7"}',
    '"name":{"e-mail":"another"},"data":{"e-mail":"8"}',
    '"data":{"e-mail":9}',
    '"data":{"partitionkey":"another","e-mail":"10"}',
]
WITH_PARTITION_KEY = [
    '"partitionkey":"1","data":{}',
    '"partitionkey":"2","data":{"partitionkey":"another"}',
    '"data":{"partitionkey":"another"},"partitionkey":"3"',
    '"data":"4","partitionkey":"5"',
]
WITHOUT = [
    '"data":{},"e-mail":"1"',
    '"data":[{"e-mail":"2"}]',
    '"data":{"name":{"e-mail":"3"}}',
    '"data":{"list":[{}],"name":{"e-mail":"4"}}',
]
WITHOUT_PARTITION_KEY = ['"data":{"partitionkey":"1"}', '"data":["partitionkey"]']


@pytest.mark.parametrize(
    ("order", "having", "without"),
    [("e-mail", WITH_KEY, WITHOUT), (True, WITH_PARTITION_KEY, WITHOUT_PARTITION_KEY)],
    ids=["field", "partitionkey"],
)
async def test_key_is_the_same_whether_the_event_is_decoded_or_not(
    redis: Redis, consumers: Consumers, order: str | bool, having: list[str], without: list[str]
) -> None:
    """Redis decodes an event that has an escape. The third of each is one."""
    consumer = consumers(STAGE, order=order)
    await consumer.ensure()
    for text in (*having, *without):
        for one in (text, text, f'"subject":"\\u0061",{text}'):
            await redis.xadd(keys.journal(RAW), {"event": f'{{"specversion":"1.0",{one}}}'})
    entries = [entry.event.decode() for entry in await take(consumer)]
    assert [sum(text in entry for entry in entries) for text in having] == [1] * len(having)
    assert [sum(text in entry for entry in entries) for text in without] == [3] * len(without)


async def test_order_by_the_partition_key(journal: Journal, consumers: Consumers, redis: Redis) -> None:
    consumer = consumers(STAGE, order=True)
    await consumer.ensure()
    for one in ("a1", "a2", "b1"):
        extensions = {"partitionkey": one[0]}
        await journal.publish(Event(id=one, source="/tests", type=RAW, data={"key": "same"}, extensions=extensions))
    assert ids(await take(consumer)) == ["a1", "b1"]


async def test_parked_event_holds_back_its_key_alone(
    journal: Journal, maintenance: Maintenance, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1", "a2", "b1", "b2")
    a1, b1 = await take(mail)
    await park(mail, a1, delay=3600)
    await complete(mail, b1)
    assert await all_of(mail) == ["b2"]
    await publish(journal, "a3", "b3")
    assert await all_of(mail) == ["b3"]
    await overdue(redis, keys.parked(STAGE))
    assert (await maintenance.retry_due([STAGE], most=9))[0] == 1
    (again,) = await take(mail)
    assert (again.retried, again.since) == (True, a1.since)
    await park(mail, again)
    await maintenance.retry_due([STAGE], most=9)
    assert await all_of(mail) == ["a1", "a2", "a3"]
    assert not await redis.exists(HELD, IN_HAND)


async def test_delayed_event_keeps_its_key(journal: Journal, maintenance: Maintenance, mail: Consumer) -> None:
    await publish(journal, "a1", "a2")
    (entry,) = await take(mail)
    assert await settled(mail, Delay(entry, "a1", 0)) == "done"  # it is that old: back to the retries at once
    (entry,) = await take(mail)
    assert (ids([entry]), entry.retried) == (["a1"], True)
    assert await settled(mail, Delay(entry, "a1", 3600)) == "done"
    assert await take(mail) == []


async def test_dead_letter_lets_the_next_go_and_its_replay_comes_before_later_ones(
    journal: Journal, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1", "a2", "a3")
    (entry,) = await take(mail)
    await bury(mail, entry)
    (a2,) = await take(mail)
    (letter,) = await journal.admin.dead_letters(STAGE)
    assert await journal.admin.replay(STAGE, [letter.entry]) == 1
    assert await take(mail) == [], "a2 is in hand"
    await complete(mail, a2)
    (again,) = await take(mail)
    assert (ids([again]), again.retried, again.failures) == (["a1"], True, 0)
    assert again.since > entry.since, "its deadline begins afresh"
    await bury(mail, again)
    assert await all_of(mail) == ["a3"]
    letters = await journal.admin.dead_letters(STAGE)
    assert await journal.admin.replay(STAGE, [one.entry for one in letters]) == 1
    assert await all_of(mail) == ["a1"]
    assert not await redis.exists(HELD, IN_HAND, RETRIES) or not await redis.xlen(RETRIES)


async def test_history_of_a_replayed_event_has_its_order(journal: Journal, redis: Redis, mail: Consumer) -> None:
    await publish(journal, "a1")
    (entry,) = await take(mail)
    await bury(mail, entry)
    ((letter, fields),) = await redis.xrange(keys.dead(STAGE))
    assert await journal.admin.replay(STAGE, [letter.decode()]) == 1
    history = json.loads(await redis.hget(keys.status("a1"), keys.HISTORY + STAGE))
    assert (history["steps"][-1]["did"], history["steps"][-1]["order"]) == ("replayed", fields[b"order"].decode())


async def test_dead_letters_that_are_replayed_together_keep_the_order_of_the_journal(
    journal: Journal, mail: Consumer
) -> None:
    await publish(journal, "a1", "a2", "b1", "a3")
    while entries := await take(mail):
        for entry in entries:
            await bury(mail, entry)
    letters = {letter.id: letter.entry for letter in await journal.admin.dead_letters(STAGE)}
    await journal.admin.replay(STAGE, [letters[one] for one in ("a3", "b1", "a2", "a1")])
    assert [one for one in await all_of(mail) if one != "b1"] == ["a1", "a2", "a3"]


@pytest.mark.parametrize(("one", "other"), ["ab", "ba"])
async def test_held_event_of_a_replay_hides_no_held_event_of_another_key(
    journal: Journal, mail: Consumer, one: str, other: str
) -> None:
    await publish(journal, f"{one}1", f"{one}2", f"{other}1", f"{other}2")
    dead, ended = await take(mail)
    await bury(mail, dead)
    (letter,) = await journal.admin.dead_letters(STAGE)
    assert await journal.admin.replay(STAGE, [letter.entry]) == 1
    await complete(mail, ended)
    assert ids(await take(mail)) == [f"{one}2", f"{other}2"]


async def test_event_past_its_deadline_lets_the_next_go(journal: Journal, mail: Consumer, redis: Redis) -> None:
    await publish(journal, "a1", "a2")
    (entry,) = await take(mail)
    entry.since = 0
    assert await settled(mail, Park(entry, "a1", failure(), 0)) == "buried"
    assert await all_of(mail) == ["a2"]


async def test_several_bridges_share_the_keys_and_take_over_in_order(
    journal: Journal, consumers: Consumers, mail: Consumer
) -> None:
    other = consumers(STAGE, "other", order="key")
    await publish(journal, "a1", "b1", "a2", "b2")
    (a1,) = await take(mail, 1)
    (b1,) = await take(other)
    assert (ids([a1]), ids([b1])) == (["a1"], ["b1"])
    await mail.hand_back(claim=CLAIM)  # as if it had died a claim time ago
    taken = await other.take_over(99, claim=CLAIM)
    assert (ids(taken.entries), taken.entries[0].deliveries) == (["a1"], 2)
    await complete(other, *taken.entries, b1)
    assert await settled(mail, Complete(a1, "a1", None)) == "stale"
    assert sorted(await all_of(mail)) == ["a2", "b2"]


async def test_late_settlement_unblocks_no_key_twice(journal: Journal, consumers: Consumers, mail: Consumer) -> None:
    await publish(journal, "a1", "a2", "a3")
    (a1,) = await take(mail)
    await complete(mail, a1)
    (a2,) = await take(mail)
    for late in (Complete(a1, "a1", None), Park(a1, "a1", failure(), 0), Bury(a1, "a1", failure())):
        assert await settled(mail, late) == "stale"
    assert await take(mail) == []
    await complete(mail, a2)
    assert await all_of(mail) == ["a3"]


async def test_lost_reply_of_a_read_is_read_again(journal: Journal, mail: Consumer) -> None:
    await publish(journal, "a1", "a2")
    read = await take(mail)
    assert ids(await mail.reread()) == ids(read) == ["a1"]


async def test_wait_returns_what_comes_and_what_is_unblocked(
    journal: Journal, consumers: Consumers, mail: Consumer
) -> None:
    assert await mail.wait(9, block=0.01) == [], "it has not looked yet: this is its first read"
    assert await mail.wait(9, block=0.01) == []
    await publish(journal, "a1", "a2")
    (a1,) = await mail.wait(9, block=20)
    assert await mail.wait(9, block=0.01) == []
    other = consumers(STAGE, "other", order="key")
    await take(other)
    await complete(mail, a1)
    assert ids(await mail.wait(9, block=20)) == ["a2"]


async def test_retries_that_fill_a_take_leave_unread_events_where_they_are(
    journal: Journal, maintenance: Maintenance, mail: Consumer
) -> None:
    await publish(journal, "a1", "b1")
    (a1,) = await take(mail, 1)
    await park(mail, a1)
    await maintenance.retry_due([STAGE], most=9)
    assert ids(await take(mail, 1)) == ["a1"]
    assert ids(await take(mail, 1)) == ["b1"]


async def test_take_over_brings_neither_a_retry_nor_an_unread_event(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, mail: Consumer
) -> None:
    await publish(journal, "a1", "b1", "c1")
    gone = consumers(STAGE, "gone", order="key")
    await abandoned(redis, gone, *await take(gone, 1))
    (b1,) = await take(mail, 1)
    await park(mail, b1)
    await maintenance.retry_due([STAGE], most=9)
    assert ids((await mail.take_over(9, claim=CLAIM)).entries) == ["a1"]
    assert sorted(ids(await take(mail))) == ["b1", "c1"]


async def test_wait_that_is_cut_off_raises_and_loses_nothing(journal: Journal, redis: Redis, mail: Consumer) -> None:
    assert await mail.wait(9, block=0.01) == [], "its first read does not wait"
    waiting = asyncio.create_task(mail.wait(9, block=READY))

    async def cut() -> int:
        reading = [client["id"] for client in await redis.client_list() if client["cmd"].startswith("xread")]
        return sum([await redis.client_kill_filter(_id=number) for number in reading])

    await eventually(cut)
    with pytest.raises(JournalUnavailable):
        await waiting
    await publish(journal, "a1")
    assert await all_of(mail) == ["a1"]


async def test_wait_on_a_full_redis_pauses_between_two_looks_and_blocks_again_once_there_is_room(
    journal: Journal,
    redis: Redis,
    mail: Consumer,
    full: Callable[[], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await publish(journal, "a1", "a2")
    await full()
    (a1,) = await take(mail)
    monkeypatch.setattr(journal_consumer, "FULL_PACE", 3600.0)
    waiting = asyncio.create_task(mail.wait(9, block=READY))
    for _ in range(9):
        await redis.ping()
    assert not waiting.done()
    waiting.cancel()
    monkeypatch.setattr(journal_consumer, "FULL_PACE", 0.0)
    await redis.config_set("maxmemory", 0)
    await complete(mail, a1)
    await complete(mail, *await mail.wait(9, block=READY))
    assert await mail.wait(9, block=0.01) == []
    waiting = asyncio.create_task(mail.wait(9, block=READY))

    async def blocks() -> bool:
        return bool((await redis.info("clients"))["blocked_clients"])

    await eventually(blocks)
    waiting.cancel()


async def test_wait_lasts_until_an_event_comes(journal: Journal, redis: Redis, mail: Consumer) -> None:
    assert await mail.wait(9, block=0.01) == [], "its first read does not wait"
    waiting = asyncio.create_task(mail.wait(9, block=3600))
    for _ in range(200):
        await redis.ping()
    await publish(journal, "a1")
    assert ids(await waiting) == ["a1"]


async def test_missing_group_is_told(journal: Journal, redis: Redis, mail: Consumer) -> None:
    for stream in (keys.journal(RAW), RETRIES):
        await redis.delete(stream)
        with pytest.raises(GroupMissing):
            await take(mail)
        await mail.ensure()
    await publish(journal, "a1")
    assert await all_of(mail) == ["a1"]


async def test_missing_group_is_told_by_a_full_redis_too(
    journal: Journal, redis: Redis, mail: Consumer, full: Callable[[], Awaitable[None]]
) -> None:
    await publish(journal, "a1")
    await full()
    await redis.xgroup_destroy(keys.journal(RAW), STAGE)
    with pytest.raises(GroupMissing):
        await take(mail)
    await mail.ensure()
    assert await all_of(mail) == ["a1"]


async def test_no_step_reads_more_than_256_events(journal: Journal, redis: Redis, mail: Consumer) -> None:
    step = redis.pipeline(transaction=False)
    for number in range(513):
        step.xadd(keys.journal(RAW), {"event": Event(id=f"{number}", source="/", type=RAW, data={"key": 1}).to_json()})
    await step.execute()
    assert len(await take(mail, 20)) == 1
    assert await redis.zcard(HELD) == 255
    assert await take(mail) == []
    assert await redis.zcard(HELD) == 511
    large = Event(id="large", source="/", type=RAW, data={"key": 2, "text": "x" * 40_000}).to_json()
    for _ in range(40):
        await redis.xadd(keys.journal(RAW), {"event": large})
    assert ids(await take(mail)) == ["large"]
    assert await redis.zcard(HELD) == 542, "a page of over a megabyte: the others wait for the next step"


async def test_counts_know_every_event_however_far_the_journal_is_trimmed(
    journal: Journal, maintenance: Maintenance, redis: Redis, mail: Consumer
) -> None:
    async def counted() -> tuple[int, int, int]:
        (depth,) = await journal.admin.depths({STAGE: [RAW]})
        await redis.delete(keys.BACKLOG)
        return depth.journaled, depth.held, await journal.backlog()

    await publish(journal, "a1", "a2", "a3", "b1", "b2")
    assert await counted() == (5, 0, 5)
    (a1,) = await take(mail, 1)
    assert await counted() == (5, 0, 5)
    (b1,) = await take(mail, 1)
    assert await counted() == (5, 2, 5)
    await maintenance.trim(RAW)
    assert await counted() == (5, 2, 5)
    await take(mail)
    assert await counted() == (5, 3, 5)
    await complete(mail, a1, b1)
    await maintenance.trim(RAW)
    assert await counted() == (3, 1, 3)
    await publish(journal, "a4", "c1")
    assert await counted() == (5, 1, 5)
    assert sorted(await all_of(mail)) == ["a2", "a3", "a4", "b2", "c1"]
    assert await counted() == (0, 0, 0)


async def test_events_that_an_operator_deletes_unread_do_not_upset_the_counts(
    journal: Journal, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1", "b1", "c1", "d1")
    (entry,) = await take(mail, 1)
    await redis.xdel(keys.journal(RAW), (await redis.xrange(keys.journal(RAW)))[2][0])
    await complete(mail, entry, *await take(mail))
    await publish(journal, "e1")
    (depth,) = await journal.admin.depths({STAGE: [RAW]})
    assert depth.journaled == 1


async def test_no_event_is_read_twice_where_redis_does_not_know_the_lag(
    journal: Journal, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1", "b1", "c1", "d1", "e1")
    names = [name for name, _ in await redis.xrange(keys.journal(RAW))]
    await redis.xgroup_setid(keys.journal(RAW), STAGE, names[0])
    await redis.xdel(keys.journal(RAW), names[3])
    assert (await redis.xinfo_groups(keys.journal(RAW)))[0]["lag"] is None
    (entry,) = await take(mail, 1)
    assert ids([entry]) == ["b1"]
    await complete(mail, entry)
    assert await all_of(mail) == ["c1", "e1"]


async def test_step_that_ends_at_its_bytes_knows_that_events_are_left(
    journal: Journal, redis: Redis, mail: Consumer
) -> None:
    for number in range(40):
        data = {"key": number, "text": "x" * 40_000}
        await journal.publish(Event(id=f"{number}", source="/tests", type=RAW, data=data))
    assert len(await take(mail)) == 32
    (depth,) = await journal.admin.depths({STAGE: [RAW]})
    assert depth.journaled == 40
    assert len(await take(mail)) == 8


async def test_read_fills_its_room_over_several_pages(journal: Journal, redis: Redis, mail: Consumer) -> None:
    """Half of the entries have other fields than their event. The others come without the names of their fields."""
    for number in range(40):
        event = Event(id=f"{number}", source="/tests", type=RAW, data={"key": number}).to_json()
        await redis.xadd(keys.journal(RAW), {"event": event, **({"attempts": 0} if number % 2 else {})})
    _, others, plain, *_ = await journal.scripts.read_ordered(
        stage=STAGE, consumer="other", channel=RAW, field="key", most=36, least=0
    )
    assert (len(others), len(plain) // 2) == (18, 18)
    assert len(await take(mail, 36)) == 4


async def test_retries_take_their_room_from_unread_events(
    journal: Journal, maintenance: Maintenance, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1", "b1")
    for entry in await take(mail):
        await park(mail, entry)
    await maintenance.retry_due([STAGE], most=9)
    await publish(journal, "c1", "d1", "e1", "f1")
    assert ids(await take(mail, 3)) == ["a1", "b1", "c1"]
    assert await redis.xlen(RETRIES) == 2


async def test_wait_has_room_for_unread_events_beside_retries(
    journal: Journal, maintenance: Maintenance, mail: Consumer
) -> None:
    await publish(journal, "a1", "b1", "c1")
    for entry in await take(mail):
        await park(mail, entry)
    await maintenance.retry_due([STAGE], most=9)
    await publish(journal, "d1", "e1", "f1")
    assert ids(await mail.wait(2, block=1)) == ["a1", "b1", "d1", "e1"]


async def test_full_redis_reads_events_whose_key_is_free_and_holds_none(
    journal: Journal, redis: Redis, mail: Consumer, full: Callable[[], Awaitable[None]]
) -> None:
    await publish(journal, "a1", "b1", "c1", "a2", "d1", "b2")
    await full()
    first = await take(mail)
    assert ids(first) == ["a1", "b1", "c1"]
    assert await take(mail) == []
    assert await mail.wait(9, block=3600) == [], "nothing tells it when the first unread event may be read"
    assert not await redis.exists(HELD)
    (depth,) = await journal.admin.depths({STAGE: [RAW]})
    assert depth.journaled == 6
    await complete(mail, *first)
    assert await all_of(mail) == ["a2", "d1", "b2"]


@pytest.mark.parametrize("broken", [HELD, IN_HAND])
async def test_refused_write_leaves_the_event_and_all_later_ones_unread(
    journal: Journal, redis: Redis, mail: Consumer, broken: str
) -> None:
    await publish(journal, "a1", "a2", "b1")
    await redis.set(broken, "of another type")
    with pytest.raises(JournalUnavailable):
        await take(mail)
    with pytest.raises(JournalUnavailable):
        await take(mail)
    await redis.delete(broken)
    entries = {entry.key: entry for entry in [*await mail.reread(), *await take(mail)]}
    await complete(mail, *entries.values())
    assert sorted([*ids([*entries.values()]), *await all_of(mail)]) == ["a1", "a2", "b1"]


@pytest.mark.parametrize("command", ["hset", "hmget", "hdel", "zadd", "xack"])
async def test_user_who_may_not_give_events_their_places_reads_none(
    journal: Journal, redis: Redis, mail: Consumer, command: str
) -> None:
    await publish(journal, "a1", "b1", "a2")
    await redis.execute_command("ACL", "SETUSER", "default", f"-{command}")
    try:
        with pytest.raises(JournalUnavailable):
            await take(mail, 1)
    finally:
        await redis.execute_command("ACL", "SETUSER", "default", f"+{command}")
    assert (await redis.xpending(keys.journal(RAW), STAGE))["pending"] == 0
    assert await all_of(mail) == ["a1", "b1", "a2"]


async def test_event_whose_parking_cannot_be_written_down_is_not_parked(
    journal: Journal, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1", "a2")
    (entry,) = await take(mail)
    await redis.execute_command("ACL", "SETUSER", "default", "-hset")
    try:
        refused = await settled(mail, Park(entry, "a1", failure(), 60))
    finally:
        await redis.execute_command("ACL", "SETUSER", "default", "+hset")
    assert isinstance(refused, SettlementRefused)
    assert not await redis.exists(keys.parked(STAGE))
    assert ids(await mail.reread()) == ["a1"]
    await complete(mail, entry)
    assert await all_of(mail) == ["a2"]


ROUTES = {STAGE: Wiring([RAW], [], "", order="key")}


async def deleted_event(redis: Redis, mail: Consumer) -> None:
    (entry,) = await take(mail)
    await redis.xdel(keys.journal(RAW), entry.id)
    await mail.hand_back(claim=CLAIM)  # it is pending no more


async def deleted_retry(redis: Redis, mail: Consumer) -> None:
    (entry,) = await take(mail)
    assert await settled(mail, Delay(entry, "a1", 0)) == "done"
    (entry,) = await take(mail)
    await redis.xdel(RETRIES, entry.id)


async def deleted_parked_event(redis: Redis, mail: Consumer) -> None:
    (entry,) = await take(mail)
    await park(mail, entry, delay=3600)
    await redis.delete(keys.parked(STAGE))


async def deleted_keys(redis: Redis, mail: Consumer) -> None:
    (entry,) = await take(mail)
    await redis.delete(IN_HAND)
    await complete(mail, entry)


@pytest.mark.parametrize("delete", [deleted_event, deleted_retry, deleted_parked_event, deleted_keys])
async def test_key_whose_event_in_hand_was_deleted_is_unblocked(
    journal: Journal,
    maintenance: Maintenance,
    redis: Redis,
    mail: Consumer,
    delete: Callable[[Redis, Consumer], Awaitable[None]],
) -> None:
    await publish(journal, "a1", "a2", "a3")
    await delete(redis, mail)
    assert await take(mail) == []
    assert await maintenance.unblock_lost(ROUTES) == 1
    assert await maintenance.unblock_lost(ROUTES) == 0
    assert await all_of(mail) == ["a2", "a3"]
    assert not await redis.exists(HELD, IN_HAND)
    assert await maintenance.unblock_lost(ROUTES) == 0


async def test_full_redis_unblocks_a_key_whose_event_was_deleted(
    journal: Journal, maintenance: Maintenance, redis: Redis, mail: Consumer, full: Callable[[], Awaitable[None]]
) -> None:
    await publish(journal, "a1", "a2")
    await deleted_event(redis, mail)
    await full()
    assert await maintenance.unblock_lost(ROUTES) == 1
    assert await all_of(mail) == ["a2"]


@pytest.mark.parametrize("member", ["", "/", "\n", "\n/", "+ no key", "key\nno order", "key - - -\nevent"])
async def test_member_of_the_held_events_that_no_key_would_let_go_becomes_a_dead_letter(
    journal: Journal, maintenance: Maintenance, redis: Redis, mail: Consumer, member: str
) -> None:
    await redis.zadd(HELD, {member: 0})
    async with asyncio.timeout(READY):
        await maintenance.unblock_lost(ROUTES)
    (letter,) = await journal.admin.dead_letters(STAGE)
    assert letter.event == member.encode()
    assert not await redis.exists(HELD)


async def test_stage_whose_keys_cannot_be_unblocked_holds_up_no_other(
    journal: Journal, maintenance: Maintenance, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1", "a2")
    await deleted_event(redis, mail)
    await redis.set(keys.in_hand("broken", RAW), "of another type")
    with pytest.raises(JournalUnavailable):
        await maintenance.unblock_lost({"broken": ROUTES[STAGE], **ROUTES})
    assert await all_of(mail) == ["a2"]


async def test_key_without_held_events_is_forgotten_when_its_event_was_deleted(
    journal: Journal, maintenance: Maintenance, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1")
    await deleted_retry(redis, mail)
    assert await maintenance.unblock_lost(ROUTES) == 1
    assert not await redis.exists(IN_HAND)


async def test_event_of_the_key_that_is_parked_for_another_channel_is_not_that_in_hand(
    journal: Journal, maintenance: Maintenance, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1")
    (entry,) = await take(mail)
    await park(mail, entry, delay=3600)
    ((member, due),) = await redis.zrange(keys.parked(STAGE), 0, -1, withscores=True)
    await redis.delete(keys.parked(STAGE))
    await redis.zadd(keys.parked(STAGE), {member.replace(RAW.encode(), b"other", 1): due})
    assert await maintenance.unblock_lost(ROUTES) == 1


async def test_only_held_event_of_a_key_that_was_deleted_is_unblocked(
    journal: Journal, maintenance: Maintenance, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1", "a2")
    await deleted_keys(redis, mail)
    assert await maintenance.unblock_lost(ROUTES) == 1
    assert await all_of(mail) == ["a2"]


async def test_keys_of_entries_that_lie_far_apart_are_unblocked_together(journal: Journal, mail: Consumer) -> None:
    await publish(journal, *(f"{letter}1" for letter in "abcdefghijklmnop"), "p2")
    await journal.publish(Event(id="without a key", source="/tests", type=RAW, data=1))
    *_, p1, keyless = entries = await take(mail)
    await complete(mail, entries[0], p1, keyless)
    assert ids(await take(mail)) == ["p2"]


async def test_due_event_whose_retry_cannot_be_written_down_stays_parked(
    journal: Journal, maintenance: Maintenance, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1")
    (entry,) = await take(mail)
    await park(mail, entry)
    await redis.execute_command("ACL", "SETUSER", "default", "-hset")
    try:
        await maintenance.retry_due([STAGE], most=9)
    finally:
        await redis.execute_command("ACL", "SETUSER", "default", "+hset")
    assert await redis.xlen(RETRIES) == 0
    assert await redis.zcard(keys.parked(STAGE)) == 1


async def test_due_event_whose_retry_redis_refuses_is_said_to_be_parked_until_its_next_try(
    journal: Journal, maintenance: Maintenance, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1")
    (entry,) = await take(mail)
    await park(mail, entry)
    await redis.delete(RETRIES)
    await redis.set(RETRIES, "of another type")
    await maintenance.retry_due([STAGE], most=9)
    ((_, due),) = await redis.zrange(keys.parked(STAGE), 0, -1, withscores=True)
    assert f"parked {due:.0f}".encode() in await redis.hvals(IN_HAND)


async def test_keys_whose_event_is_there_are_not_unblocked(
    journal: Journal, maintenance: Maintenance, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, *(f"{letter}{number}" for letter in "abcd" for number in (1, 2)))
    a, b, c, _ = await take(mail)
    await park(mail, a, delay=3600)
    await park(mail, b, delay=3600)
    await overdue(redis, keys.parked(STAGE))  # an operator may make it due; the time is another one then
    await complete(mail, c)
    assert await maintenance.unblock_lost(ROUTES) == 0
    assert ids(await take(mail)) == ["c2"]


async def test_member_that_is_no_held_event_becomes_a_dead_letter_and_holds_up_nothing(
    journal: Journal, redis: Redis, mail: Consumer
) -> None:
    await publish(journal, "a1", "a2")
    (entry,) = await take(mail)
    key = next(field for field in await redis.hkeys(IN_HAND) if not field.startswith(b"j"))
    await redis.zadd(HELD, {key + b"/0 nonsense": 0})
    await complete(mail, entry)
    assert await all_of(mail) == ["a2"]
    (letter,) = await journal.admin.dead_letters(STAGE)
    assert letter.event.endswith(b"/0 nonsense")


async def test_forgotten_stage_leaves_nothing(
    journal: Journal, redis: Redis, mail: Consumer, maintenance: Maintenance
) -> None:
    await publish(journal, "a1", "a2", "a3", "b1")
    (a1, _) = await take(mail)
    await park(mail, a1)
    await unserved(redis, STAGE)
    assert (await journal.admin.forget(STAGE)).parked == 3, "without b1, which is in the journal"
    assert not await redis.keys(f"*{STAGE}*")


async def test_events_that_a_stage_left_behind_are_counted_and_forgotten(
    journal: Journal, redis: Redis, mail: Consumer, maintenance: Maintenance
) -> None:
    await publish(journal, "a1", "a2", "a3")
    await take(mail)
    await serve(maintenance, SENT)
    ((place, events),) = [(depth.stage, depth.journaled) for depth in await journal.admin.left_behind()]
    assert (place, events) == (f"{STAGE}:{RAW}", 3)
    assert (await journal.admin.forget(place)).parked == 2, "without a1, which is in the journal"
    assert not await redis.exists(HELD, IN_HAND, RETRIES)


async def test_events_of_a_channel_that_the_stage_no_longer_consumes_become_dead_letters(
    journal: Journal, redis: Redis, mail: Consumer, maintenance: Maintenance
) -> None:
    await publish(journal, "a1", "a2", "b1", "b2", "b3")
    a1, b1 = await take(mail)
    await park(mail, b1)
    await serve(maintenance, SENT)
    await maintenance.retry_due([STAGE], most=9)
    for dead in (["b1", "b2", "b3"], ["a2", "b1", "b2", "b3"]):
        await journal.scripts.trim(channel=RAW, fresh=0, limit=1000)
        letters = await journal.admin.dead_letters(STAGE)
        assert sorted(str(letter.id) for letter in letters) == dead
        await mail.settle([Complete(a1, "a1", None)])
    assert not await redis.exists(HELD, IN_HAND, RETRIES)


async def test_events_of_a_key_keep_the_order_of_their_entries_whatever_digits_these_have(
    redis: Redis, mail: Consumer
) -> None:
    entries = ["9-9", "9-10", "9-100", "10-1", "10-9", "10-10", "1764000000000-9", "1764000000000-10"]
    entries += [f"1764000000000-{number}" for number in (10**19 - 1, 10**19)]  # 19 digits, and 20
    for entry in entries:
        event = Event(id=entry, source="/tests", type=RAW, data={"key": "a"})
        await redis.xadd(keys.journal(RAW), {"event": event.to_json()}, id=entry)
    assert await all_of(mail) == entries


async def test_texts_that_are_escaped_in_different_ways_are_one_key(redis: Redis, mail: Consumer) -> None:
    event = Event(id="1", source="/tests", type=RAW, data={"key": "ab"}).to_json()
    for text in ("ab", "a\\u0062", "\\u0061b"):
        await redis.xadd(keys.journal(RAW), {"event": event.replace("ab", text)})
    assert len(await take(mail)) == 1
    assert await redis.zcard(HELD) == 2


async def test_switch_to_a_broker_carries_held_events_along(
    journal: Journal, redis: Redis, mail: Consumer, maintenance: Maintenance, consumers: Consumers
) -> None:
    await publish(journal, "a1", "a2", "a3", "b1")
    for tried in ("a4", "a5"):
        event = Event(id=tried, source="/tests", type=RAW, data={"key": "a"}).to_json()
        await redis.xadd(keys.journal(RAW), {"event": event, "since": 5, "attempts": 3, "crashes": 1})
    journaled = (await redis.xrange(keys.journal(RAW)))[1][0]
    (a1, _) = await take(mail)
    await park(mail, a1, delay=3600)
    await redis.zadd(HELD, {"nonsense": 0})
    await unserved(redis, STAGE)
    assert await maintenance.switch({BROKER: Wiring([RAW], [], "http://broker")}) is None
    found = {event_of(entry).id: entry for entry in await take(consumers(BROKER))}
    assert sorted(found) == ["a1", "a2", "a3", "a4", "a5", "b1"]
    assert (found["a2"].since, found["a2"].failures) == (int(journaled.partition(b"-")[0]), 0)
    assert (found["a4"].since, found["a4"].attempts, found["a4"].crashes) == (5, 3, 1)
    assert [letter.event for letter in await journal.admin.dead_letters(STAGE)] == [b"nonsense"]
    assert not await redis.exists(HELD, IN_HAND, RETRIES, keys.parked(STAGE))


async def test_held_events_flow_also_when_the_stage_has_lost_its_order(
    journal: Journal, consumers: Consumers, mail: Consumer, redis: Redis
) -> None:
    await publish(journal, "a1", "a2", "a3")
    (a1,) = await take(mail)
    plain = consumers(STAGE, "plain")
    assert await take(plain) == []
    await complete(mail, a1)
    assert await all_of(plain) == ["a2", "a3"]
    assert not await redis.exists(HELD, IN_HAND)


async def test_events_that_were_pending_before_the_stage_was_ordered_are_taken_over(
    journal: Journal, consumers: Consumers, mail: Consumer
) -> None:
    plain = consumers(STAGE, "plain")
    await publish(journal, "a1", "a2", "a3")
    assert ids(await take(plain, 2)) == ["a1", "a2"]
    await plain.hand_back(claim=CLAIM)
    entries = (await mail.take_over(9, claim=CLAIM)).entries
    assert ids(entries) == ["a1", "a2"]
    await complete(mail, *entries, *await take(mail))
    assert await all_of(mail) == []


async def test_retry_of_version_0_1_for_one_stage_reaches_that_stage_alone(redis: Redis, mail: Consumer) -> None:
    async def add(number: int, stage: str) -> None:
        event = Event(id=f"a{number}", source="/tests", type=RAW, data={"key": "a"}).to_json()
        fields = {"event": event, "for": stage, "since": "5", "attempts": "3", "crashes": "1"}
        await redis.xadd(keys.journal(RAW), fields)  # type: ignore[arg-type]

    await add(1, "other")
    assert await take(mail) == []
    assert (await redis.xpending(keys.journal(RAW), STAGE))["pending"] == 0
    await add(2, STAGE)
    await add(3, STAGE)
    for expected in ("a2", "a3"):
        (entry,) = await take(mail)
        assert ids([entry]) == [expected]
        assert (entry.since, entry.attempts, entry.crashes, entry.retried) == (5, 3, 1, True)
        await complete(mail, entry)


async def test_status_of_a_held_event_does_not_expire(
    journal: Journal, maintenance: Maintenance, redis: Redis, mail: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_maintenance, "STATUS_PAGE", 2)
    names = [f"a{number}" for number in range(6)]
    await publish(journal, *names)
    await take(mail)
    for one in names:
        await redis.pexpire(keys.status(one), 60_000)
    await maintenance.keep_statuses(RAW)
    for one in names[1:]:
        assert await redis.pttl(keys.status(one)) > 3_000_000


async def test_history_of_a_held_event_and_milepost_check_know_where_it_is(
    journal: Journal, redis: Redis, mail: Consumer, maintenance: Maintenance
) -> None:
    await publish(journal, "a1", "a2")
    (a1,) = await take(mail)
    await park(mail, a1, delay=3600)
    assert [step.did for step in (await journal.whole_status("a2"))[1][STAGE].steps] == ["held"]
    found = [event async for event in Waiting(redis, await journal.admin.table(), {}).events()]
    entry = (await redis.xrange(keys.journal(RAW)))[1][0].decode()
    assert sorted((event.place, event.entry) for event in found) == [("held", entry), ("parked", a1.id)]


async def test_ordered_consumer_waits_on_the_server_and_not_in_a_loop(redis: Redis, mail: Consumer) -> None:
    await take(mail)
    waiting = asyncio.create_task(mail.wait(9, block=20))

    async def blocked() -> bool:
        return any(client["cmd"].startswith("xread") and "b" in client["flags"] for client in await redis.client_list())

    await eventually(blocked)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
