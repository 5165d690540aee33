"""Publishing: an event is journaled, published and written into its status; one that was published before is not."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from milepost.errors import BacklogFull, JournalUnavailable
from milepost.events.event import JOURNAL_MARK, Event
from milepost.journal import Bury, Complete, Journal, Maintenance, Park, Unreadable, keys, shared_connection
from milepost.journal import journal as journal_module
from milepost.journal.journal import BACKLOG_TRUSTED
from milepost.settings import JournalSettings
from tests.journal.conftest import Consumers, Table
from tests.journal.events import (
    CALCULATED,
    PLACE,
    RAW,
    SENT,
    commands,
    everything,
    failure,
    heard,
    made,
    reply_to,
    settled,
    submission,
    taken,
    verbs,
)


async def test_new_event_is_journaled_marked_announced_and_noted(journal: Journal, redis: Redis) -> None:
    event = submission()
    async with heard(redis, RAW) as messages:
        assert await journal.publish(event) is True
    ((entry, fields),) = await redis.xrange(keys.journal(RAW))
    assert fields == {b"event": event.to_json().encode()}
    assert await redis.smembers(keys.JOURNALS) == {RAW.encode()}
    assert await redis.get(keys.seen(event.source, event.id)) == b"carried"
    assert [message for _, message in messages] == [
        b'{"journalid":"' + entry + b'",' + event.to_json().encode().removeprefix(b"{")
    ]
    note = (await journal.status(event.id))[RAW]
    assert note.data == PLACE
    assert abs(note.at - datetime.now(UTC)) < timedelta(seconds=10)


async def test_mark_comes_before_the_journal_the_announcement_and_the_note(journal: Journal, redis: Redis) -> None:
    await journal.publish(submission())
    async with commands(redis) as called:
        await journal.publish(submission())
    called = [command for command in called if keys.BACKLOG not in command]
    assert [verb for verb in verbs(called) if verb in {"XADD", "SET", "PUBLISH", "HSET"}] == [
        "SET",
        "XADD",
        "PUBLISH",
        "HSET",
    ]


async def test_seen_event_changes_nothing(journal: Journal, redis: Redis) -> None:
    event = submission()
    await journal.publish(event)
    before = await everything(redis)
    async with heard(redis, RAW) as messages:
        assert await journal.publish(event) is False
    assert messages == []
    assert await everything(redis) == before


async def test_source_and_id_together_identify_an_event(journal: Journal, redis: Redis) -> None:
    assert await journal.publish(submission("one", source="/a"))
    assert await journal.publish(submission("one", source="/b"))
    assert await journal.publish(submission("two", source="/a"))
    assert await redis.xlen(keys.journal(RAW)) == 3


async def test_event_published_many_times_at_once_is_published_once(journal: Journal, redis: Redis) -> None:
    event = submission()
    async with heard(redis, RAW) as messages:
        answers = await asyncio.gather(*(journal.publish(event) for _ in range(300)))
    assert answers.count(True) == 1
    assert len(messages) == await redis.xlen(keys.journal(RAW)) == 1


CHANNELS = {"distance": (RAW, CALCULATED), "store": (CALCULATED, "user:email"), "email": ("user:email", SENT)}


async def test_each_event_of_a_batch_has_its_own_answer(journal: Journal, redis: Redis) -> None:
    await redis.set(keys.journal("broken"), "not a stream")
    seen = submission()
    await journal.publish(seen)
    good, bad = submission(), submission(channel="broken")
    answers = await asyncio.gather(
        *(journal.publish(event) for event in (good, seen, bad, submission())), return_exceptions=True
    )
    assert answers[:2] == [True, False]
    assert isinstance(answers[2], JournalUnavailable)
    assert answers[3] is True
    assert not await redis.exists(keys.seen(bad.source, bad.id), keys.status(bad.id))


async def test_message_begins_with_the_journal_mark_and_is_otherwise_the_event(journal: Journal, redis: Redis) -> None:
    event = submission()
    async with heard(redis, RAW) as messages:
        await journal.publish(event)
    ((_, message),) = messages
    ((entry, _),) = await redis.xrange(keys.journal(RAW))
    assert message.startswith(JOURNAL_MARK + entry + b'",')
    assert Event.from_json(message) == event


@pytest.mark.parametrize(
    "data",
    [2216.0742916592476, [], {}, {"deep": [[], {}, [0.1, 1e300, 12345678901234567890]]}, "é\n\0", None],
    ids=repr,
)
async def test_lua_never_reencodes_an_event(
    journal: Journal, redis: Redis, maintenance: Maintenance, consumers: Consumers, table: Table, data: object
) -> None:
    await table(distance=(RAW, CALCULATED), store=(CALCULATED,))
    distance, store = consumers("distance"), consumers("store", channel=CALCULATED)
    await made(distance, store)
    event, text = submission(data=data), submission(data=data).to_json()
    event = Event.from_json(text)
    async with heard(redis, RAW, CALCULATED) as messages:
        await journal.publish(event)
        for act in ("park", "bury"):
            (entry,) = await distance.take(1)
            assert entry.event == text.encode()
            if act == "park":
                await settled(distance, Park(entry, event.id, failure(), 0))
                await maintenance.retry_due(["distance"], most=1)
            else:
                await settled(distance, Bury(entry, event.id, failure()))
        (dead,) = await journal.admin.dead_letters("distance")
        assert dead.event == text.encode()
        await journal.admin.replay("distance", [dead.entry])
        (entry,) = await distance.take(1)
        assert entry.event == text.encode()
        reply = reply_to(event, data=data)
        await settled(distance, Complete(entry, event.id, reply))
        (following,) = await store.take(1)
        assert following.event == reply.to_json().encode()
    assert [message.partition(b",")[2] for _, message in messages] == [
        text.encode().removeprefix(b"{"),
        reply.to_json().encode().removeprefix(b"{"),
    ]
    assert {channel: json.dumps(note.data) for channel, note in (await journal.status(event.id)).items()} == {
        RAW: json.dumps(data),
        CALCULATED: json.dumps(data),
    }


async def test_refused_announcement_takes_back_every_write(
    redis: Redis, redis_url: str, opened: Callable[[JournalSettings], Journal]
) -> None:
    """A Redis user without channels, Redis 7's default for a new one, may write everything but not PUBLISH."""
    await redis.acl_setuser("mute", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all"], channels=[])
    mute = opened(JournalSettings.read(redis_url=redis_url.replace("//", "//mute:pw@")))
    event = submission()
    with pytest.raises(JournalUnavailable):
        await mute.publish(event)
    await redis.acl_deluser("mute")
    assert await redis.xlen(keys.journal(RAW)) == 0
    assert not await redis.exists(keys.seen(event.source, event.id), keys.status(event.id))
    assert await opened(JournalSettings.read(redis_url=redis_url)).publish(event) is True


async def test_backlog_counts_journaled_parked_and_dead_events(
    journal: Journal, maintenance: Maintenance, consumers: Consumers, table: Table
) -> None:
    await table(**CHANNELS)
    distance = consumers("distance")
    await made(distance)
    first, second, *_ = await taken(journal, distance, 4)
    await journal.publish(submission(channel="user:email"))
    assert await journal.backlog() == 5
    await settled(distance, Park(first, "", failure(), 60))
    await settled(distance, Bury(second, "", failure()))
    await maintenance.unreadable([Unreadable(RAW, b"\xff", "not UTF-8")])
    assert await journal.backlog() == 2 + 1 + 1 + 1 + 1


async def test_backlog_counts_retries(
    journal: Journal, maintenance: Maintenance, consumers: Consumers, table: Table
) -> None:
    await table(**CHANNELS)
    distance = consumers("distance")
    await made(distance)
    (entry,) = await taken(journal, distance)
    await settled(distance, Park(entry, "", failure(), 0))
    await maintenance.retry_due(["distance"], most=1)
    assert await journal.backlog() == 1
    await distance.take(1)
    assert await journal.backlog() == 1


async def test_publish_over_the_backlog_limit_writes_nothing(
    redis: Redis, settings: JournalSettings, opened: Callable[[JournalSettings], Journal]
) -> None:
    journal = opened(settings.model_copy(update={"backlog_limit": 2}))
    await journal.publish(submission())
    await journal.publish(submission())
    before = await everything(redis)
    async with heard(redis, RAW) as messages:
        with pytest.raises(BacklogFull, match="limit of 2"):
            await journal.publish(submission())
    assert messages == []
    assert await everything(redis) == before


async def test_door_that_refuses_new_events_recognises_one_that_it_has(
    settings: JournalSettings, opened: Callable[[JournalSettings], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply to its publish may have been lost: redis-py then sends it again, or the client does."""
    monkeypatch.setattr(journal_module, "BACKLOG_TRUSTED", timedelta(milliseconds=1))
    journal = opened(settings.model_copy(update={"backlog_limit": 2}))
    events = [submission() for _ in range(3)]
    assert [await journal.publish(event) for event in events[:2]] == [True, True]
    answers = await asyncio.gather(*map(journal.publish, events), return_exceptions=True)
    assert answers[:2] == [False, False]
    assert isinstance(answers[2], BacklogFull)


async def test_backlog_is_counted_once_for_many_publishes_and_the_limit_holds_meanwhile(
    redis: Redis,
    settings: JournalSettings,
    opened: Callable[[JournalSettings], Journal],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many channels there are, most publishes look at none of them."""
    journal, other = (opened(settings.model_copy(update={"backlog_limit": 5})) for _ in range(2))
    await journal.publish(submission())
    assert 0 < await redis.pttl(keys.BACKLOG) <= BACKLOG_TRUSTED.total_seconds() * 1000
    monkeypatch.setattr(journal_module, "BACKLOG_TRUSTED", timedelta(hours=1))
    seconds, _ = await redis.time()
    await redis.set(keys.BACKLOG, f"2 {seconds}000\n\n")  # the count that doors trust; it does not expire here
    async with commands(redis) as called:
        assert await journal.publish(submission())
        assert await other.publish(submission())
    assert "XLEN" not in verbs(called)
    assert (await redis.get(keys.BACKLOG)).split()[0] == b"4"
    await journal.publish(submission())
    with pytest.raises(BacklogFull):
        await other.publish(submission())
    await redis.set(keys.BACKLOG, f"5 {seconds + 7200}000\n\n")  # as if the clock had been set back since
    assert await other.publish(submission()), "counted anew there are four"


async def test_doors_begin_only_so_many_journals_that_no_stage_consumes(
    journal: Journal, redis: Redis, consumers: Consumers, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MOST_UNCONSUMED", 3)
    await table(distance=(RAW, CALCULATED), email=("user:email", SENT))
    await made(consumers("distance"))
    await journal.publish(submission(channel="user:email"))
    await asyncio.gather(*(journal.publish(submission(channel=f"unknown-{n}")) for n in range(3)))
    answers = await asyncio.gather(
        *(journal.publish(submission(channel=channel)) for channel in ("fourth", "unknown-0", RAW, "user:email")),
        return_exceptions=True,
    )
    assert answers[1:] == [True] * 3
    assert isinstance(answers[0], BacklogFull)
    assert str(answers[0]) == "no stage consumes 'fourth', and 3 channels that none consumes exist already"
    assert not await redis.exists(keys.journal("fourth"))
    await table(fourth=("fourth",))
    assert await journal.publish(submission(channel="fourth"))


async def test_doors_begin_no_more_journals_where_a_stage_consumes_none(
    journal: Journal, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MOST_UNCONSUMED", 2)
    assert [await journal.publish(submission(channel=channel)) for channel in ("first", "second")] == [True, True]
    with pytest.raises(BacklogFull):
        await journal.publish(submission(channel="third"))


async def test_reply_is_never_refused_over_the_backlog_limit(
    redis: Redis, settings: JournalSettings, opened: Callable[[JournalSettings], Journal], consumers: Consumers
) -> None:
    journal = opened(settings.model_copy(update={"backlog_limit": 1}))
    distance = consumers("distance")
    await made(distance)
    event = submission()
    await journal.publish(event)
    (entry,) = await distance.take(1)
    assert await settled(distance, Complete(entry, event.id, reply_to(event))) == "done"
    assert await redis.xlen(keys.journal(CALCULATED)) == 1


async def test_pause_that_no_replica_has_is_refused_and_may_be_repeated(
    opened: Callable[[JournalSettings], Journal], redis_url: str, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_connection, "REPLICATED_WITHIN", 0.01)
    await table(distance=(RAW,))
    journal = opened(JournalSettings.read(redis_url=redis_url, replicas=1))
    for _ in range(2):
        with pytest.raises(JournalUnavailable, match="0 of 1 replicas confirmed it"):
            await journal.admin.pause("distance")
