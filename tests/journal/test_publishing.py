"""How it is kept, publish: unseen? XADD, SET seen, PUBLISH, note progress. Seen: nothing, says so."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from milepost import keys
from milepost.errors import BacklogFull, JournalUnavailable
from milepost.events.event import JOURNAL_MARK, Event
from milepost.journal import Bury, Complete, Journal, Park, Unreadable, Upkeep
from milepost.journal import journal as journal_module
from milepost.journal.journal import BACKLOG_TRUSTED
from milepost.settings import JournalSettings
from tests.journal.conftest import Groups, Table
from tests.journal.events import (
    CALCULATED,
    PLACE,
    RAW,
    READY,
    SENT,
    commands,
    everything,
    heard,
    journaled,
    letter,
    made,
    reply_to,
    submission,
    unserved,
    verbs,
)

CHANNELS = {"distance": (RAW, CALCULATED), "store": (CALCULATED, "user:email"), "email": ("user:email", SENT)}


async def test_an_unseen_event_is_journaled_marked_announced_and_noted(journal: Journal, redis: Redis) -> None:
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
    note = (await journal.progress(event.id))[RAW]
    assert note.data == PLACE
    assert abs(note.at - datetime.now(UTC)) < timedelta(seconds=10)


async def test_the_steps_of_publish_come_in_order_and_in_one_script(journal: Journal, redis: Redis) -> None:
    await journal.publish(submission())
    async with commands(redis) as called:
        await journal.publish(submission())
    called = [command for command in called if keys.BACKLOG not in command]
    assert [verb for verb in verbs(called) if verb in {"XADD", "SET", "PUBLISH", "HSET"}] == [
        "XADD",
        "SET",
        "PUBLISH",
        "HSET",
    ]


async def test_a_seen_event_does_nothing_and_says_so(journal: Journal, redis: Redis) -> None:
    event = submission()
    await journal.publish(event)
    before = await everything(redis)
    async with heard(redis, RAW) as messages:
        assert await journal.publish(event) is False
    assert messages == []
    assert await everything(redis) == before


async def test_source_and_id_together_name_an_event(journal: Journal, redis: Redis) -> None:
    assert await journal.publish(submission("one", source="/a"))
    assert await journal.publish(submission("one", source="/b"))
    assert await journal.publish(submission("two", source="/a"))
    assert await redis.xlen(keys.journal(RAW)) == 3


async def test_one_event_published_many_times_at_once_is_published_once(journal: Journal, redis: Redis) -> None:
    event = submission()
    async with heard(redis, RAW) as messages:
        answers = await asyncio.gather(*(journal.publish(event) for _ in range(300)))
    assert answers.count(True) == 1
    assert len(messages) == await redis.xlen(keys.journal(RAW)) == 1


async def test_each_entry_of_a_batch_has_its_own_answer(journal: Journal, redis: Redis) -> None:
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
    assert not await redis.exists(keys.seen(bad.source, bad.id), keys.progress(bad.id))


async def test_a_message_begins_with_exactly_the_journal_mark_and_is_else_the_event(
    journal: Journal, redis: Redis
) -> None:
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
    journal: Journal, redis: Redis, upkeep: Upkeep, groups: Groups, table: Table, data: object
) -> None:
    await table(distance=(RAW, CALCULATED), store=(CALCULATED,))
    distance, store = groups("distance"), groups("store", channel=CALCULATED)
    await made(distance, store)
    event, text = submission(data=data), submission(data=data).to_json()
    event = Event.from_json(text)
    async with heard(redis, RAW, CALCULATED) as messages:
        await journal.publish(event)
        for act in ("park", "bury"):
            (entry,) = await distance.read(1, block=READY) or []
            assert entry.event == text.encode()
            if act == "park":
                await distance.settle(Park(entry, letter(event), 0))
                await upkeep.wake(["distance"], most=1)
            else:
                await distance.settle(Bury(entry, letter(event)))
        (dead,) = await journal.dead_letters("distance")
        assert dead.event == text.encode()
        await journal.replay("distance", [dead.entry])
        (entry,) = await distance.read(1, block=READY) or []
        assert entry.event == text.encode()
        reply = reply_to(event, data=data)
        await distance.settle(Complete(entry, reply))
        (following,) = await store.read(1, block=READY) or []
        assert following.event == reply.to_json().encode()
    assert [message.partition(b",")[2] for _, message in messages] == [
        text.encode().removeprefix(b"{"),
        reply.to_json().encode().removeprefix(b"{"),
    ]
    assert {channel: json.dumps(note.data) for channel, note in (await journal.progress(event.id)).items()} == {
        RAW: json.dumps(data),
        CALCULATED: json.dumps(data),
    }


async def test_a_channel_emitted_and_consumed_by_none_is_announced_and_not_journaled(
    journal: Journal, redis: Redis, table: Table
) -> None:
    await table(**CHANNELS)
    event = submission(channel=SENT)
    async with heard(redis, SENT) as messages:
        assert await journal.publish(event) is True
        assert await journal.publish(event) is False
    assert messages == [(SENT, event.to_json().encode())]
    assert not await redis.exists(keys.journal(SENT), keys.JOURNALS)
    assert await redis.get(keys.seen(event.source, event.id)) == b"announced"
    assert SENT in await journal.progress(event.id)


@pytest.mark.parametrize("channel", [RAW, CALCULATED, "user:email", "nobody:knows"])
async def test_any_other_channel_is_journaled(journal: Journal, redis: Redis, table: Table, channel: str) -> None:
    await table(**CHANNELS)
    await journal.publish(submission(channel=channel))
    assert await redis.xlen(keys.journal(channel)) == 1


async def test_a_channel_is_journaled_even_if_no_bridge_has_ever_run(journal: Journal, redis: Redis) -> None:
    await journal.publish(submission(channel=SENT))
    assert await redis.xlen(keys.journal(SENT)) == 1


async def test_a_channel_stays_journaled_while_its_stage_is_not_served(
    journal: Journal, redis: Redis, table: Table
) -> None:
    await table(**CHANNELS)
    await unserved(redis, "store")
    await journal.publish(submission(channel=CALCULATED))
    assert await redis.xlen(keys.journal(CALCULATED)) == 1


async def test_an_announced_event_is_journaled_when_a_stage_appears_and_not_announced_again(
    journal: Journal, redis: Redis, table: Table
) -> None:
    await table(**CHANNELS)
    event = submission(channel=SENT)
    await journal.publish(event)
    await table(archive=(SENT,))
    async with heard(redis, SENT) as messages:
        assert await journal.publish(event) is True
        assert await journal.publish(event) is False
    assert messages == []
    assert await journaled(redis, SENT) == [{b"event": event.to_json().encode()}]
    assert await redis.get(keys.seen(event.source, event.id)) == b"carried"


async def test_an_error_after_the_first_write_takes_it_back(
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
    assert await opened(JournalSettings.read(redis_url=redis_url)).publish(event) is True


async def test_the_backlog_counts_journals_parked_and_dead_letters(
    journal: Journal, upkeep: Upkeep, groups: Groups, table: Table
) -> None:
    await table(**CHANNELS)
    distance = groups("distance")
    await made(distance)
    events = [submission() for _ in range(3)]
    for event in events:
        await journal.publish(event)
    await journal.publish(submission(channel="user:email"))
    assert await journal.backlog() == 4
    entries = await distance.read(2, block=READY) or []
    await distance.settle(Park(entries[0], letter(events[0]), 60))
    await distance.settle(Bury(entries[1], letter(events[1])))
    await upkeep.unreadable([Unreadable(RAW, b"\xff", "not UTF-8")])
    assert await upkeep.trim(RAW) == ("trimmed", 2)
    assert await journal.backlog() == 2 + 1 + 1 + 1


async def test_over_the_backlog_limit_publish_writes_nothing(
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


async def test_the_backlog_is_counted_once_for_many_publishes_and_doors_keep_to_the_limit_meanwhile(
    redis: Redis, settings: JournalSettings, opened: Callable[[JournalSettings], Journal]
) -> None:
    """However many channels there are, most publishes look at none of them."""
    journal, other = (opened(settings.model_copy(update={"backlog_limit": 5})) for _ in range(2))
    await journal.publish(submission())
    assert 0 < await redis.pttl(keys.BACKLOG) <= BACKLOG_TRUSTED * 1000
    await redis.set(keys.BACKLOG, 2)  # what is known, and lasts here
    async with commands(redis) as called:
        assert await journal.publish(submission())
        assert await other.publish(submission())
    assert "XLEN" not in verbs(called)
    assert await redis.get(keys.BACKLOG) == b"4"
    await journal.publish(submission())
    with pytest.raises(BacklogFull):
        await other.publish(submission())
    await redis.delete(keys.BACKLOG)
    assert await other.publish(submission()), "counted anew there are four"


async def test_doors_begin_no_more_than_so_many_journals_that_no_stage_consumes(
    journal: Journal, redis: Redis, groups: Groups, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MOST_UNCONSUMED", 3)
    await table(distance=(RAW, CALCULATED), email=("user:email", SENT))
    distance = groups("distance")
    await made(distance)
    await journal.publish(submission(channel="user:email"))
    await asyncio.gather(*(journal.publish(submission(channel=f"unknown-{n}")) for n in range(3)))
    answers = await asyncio.gather(
        *(journal.publish(submission(channel=channel)) for channel in ("fifth", "unknown-0", RAW, SENT, "user:email")),
        return_exceptions=True,
    )
    assert answers[1:] == [True] * 4
    assert isinstance(answers[0], BacklogFull)
    assert str(answers[0]) == "no stage consumes 'fifth', and 3 channels that none consumes wait already"
    assert not await redis.exists(keys.journal("fifth"))
    await table(fifth=("fifth",))
    assert await journal.publish(submission(channel="fifth"))


async def test_hops_are_never_refused_over_the_backlog_limit(
    redis: Redis, settings: JournalSettings, opened: Callable[[JournalSettings], Journal], groups: Groups
) -> None:
    journal = opened(settings.model_copy(update={"backlog_limit": 1}))
    distance = groups("distance")
    await made(distance)
    event = submission()
    await journal.publish(event)
    (entry,) = await distance.read(1, block=READY) or []
    assert await distance.settle(Complete(entry, reply_to(event))) == "done"
    assert await redis.xlen(keys.journal(CALCULATED)) == 1
