"""Settling an entry: the check that it is pending, the write, and the acknowledgement last."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from milepost.errors import JournalUnavailable
from milepost.events.batch import part_id
from milepost.events.event import Event
from milepost.journal import (
    Bury,
    Complete,
    Consumer,
    Delay,
    Entry,
    GroupMissing,
    Journal,
    Maintenance,
    Park,
    Scripts,
    Settlement,
    SettlementRefused,
    Split,
    keys,
)
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.journal.conftest import Consumers
from tests.journal.events import (
    CALCULATED,
    CLAIM,
    RAW,
    abandoned,
    commands,
    event_of,
    everything,
    failure,
    heard,
    journaled,
    made,
    pending,
    reply_to,
    settled,
    submission,
    taken,
    verbs,
)

DAY = 24 * 3600 * 1000
"""Milliseconds."""


def part_of(entry: Entry, place: int = 0, *, channel: str = CALCULATED) -> Event:
    event = event_of(entry)
    return replace(reply_to(event, channel), id=part_id(event.id, place))


KINDS: dict[str, Callable[[Entry], Settlement]] = {
    "complete": lambda entry: Complete(entry, event_of(entry).id, reply_to(event_of(entry))),
    "split": lambda entry: Split(entry, event_of(entry).id, [part_of(entry)]),
    "park": lambda entry: Park(entry, event_of(entry).id, failure(), 30),
    "bury": lambda entry: Bury(entry, event_of(entry).id, failure()),
    "delay": lambda entry: Delay(entry, event_of(entry).id, 30),
}
"""Parked for under a minute: a status is kept longer by a minute at least, so at 60 s a millisecond would decide."""
each_kind = pytest.mark.parametrize("kind", KINDS)


async def test_event_leaves_one_journal_as_it_enters_the_next(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    (entry,) = await taken(journal, distance)
    reply = reply_to(event_of(entry), data={"email": "someone@example.org", "distance_from_velocity": 1.5})
    async with heard(redis, CALCULATED) as messages:
        assert await settled(distance, Complete(entry, reply.id, reply)) == "done"
    assert await pending(redis, distance) == 0
    ((following, fields),) = await redis.xrange(keys.journal(CALCULATED))
    assert fields == {b"event": reply.to_json().encode()}
    assert messages == [
        (CALCULATED, b'{"journalid":"' + following + b'",' + reply.to_json().encode().removeprefix(b"{"))
    ]
    assert list(await journal.status(reply.id)) == [RAW, CALCULATED]


async def test_delivery_without_a_reply_is_acknowledged_and_publishes_nothing(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    (entry,) = await taken(journal, distance)
    assert await settled(distance, Complete(entry, event_of(entry).id, None)) == "done"
    assert await pending(redis, distance) == 0
    assert await redis.smembers(keys.JOURNALS) == {RAW.encode()}


async def test_deliveries_are_settled_together_in_any_order(journal: Journal, distance: Consumer) -> None:
    first, second, third = await taken(journal, distance, 3)
    answers = await distance.settle([Complete(entry, "", None) for entry in (second, third, first)])
    assert answers == ["done"] * 3


async def test_deliveries_settled_together_share_the_look_at_what_is_pending(redis: Redis, distance: Consumer) -> None:
    for number in range(1, 6):
        await redis.xadd(keys.journal(RAW), {"event": submission().to_json()}, id=f"{number}-1")
    one, two, three, four, five = await distance.take(5)
    for entries in ([two, three, one], [five, four]):
        async with commands(redis) as called:
            assert await distance.settle([KINDS["complete"](entry) for entry in entries]) == ["done"] * len(entries)
        assert [verbs(called).count(verb) for verb in ("XPENDING", "SADD")] == [1, 1]


@each_kind
async def test_settled_retry_is_deleted_at_once(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, kind: str
) -> None:
    """No other group reads the retries of a stage, and no trim shortens them."""
    first = await taken(journal, distance, 2)
    await distance.settle([Park(entry, "", failure(), 0) for entry in first])
    await maintenance.retry_due(["distance"], most=2)
    slow, entry = await distance.take(2)
    assert await settled(distance, KINDS[kind](entry)) in {"done", "buried"}
    assert [name.decode() for name, _ in await redis.xrange(keys.retries("distance", RAW))] == [slow.id]


@each_kind
async def test_settled_entry_of_a_journal_is_deleted_by_the_next_trim(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, kind: str
) -> None:
    (entry,) = await taken(journal, distance)
    assert await settled(distance, KINDS[kind](entry)) in {"done", "buried"}
    assert await maintenance.trim(RAW) == ("trimmed", 1, 0)
    assert await journaled(redis, RAW) == []


async def test_settled_entry_stays_while_another_stage_needs_it(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, consumers: Consumers
) -> None:
    audit = consumers("audit")
    await made(audit)
    (entry,) = await taken(journal, distance)
    await settled(distance, Complete(entry, "", None))
    await maintenance.trim(RAW)
    (same,) = await audit.take(9)
    assert same.event == entry.event


@each_kind
async def test_full_redis_allows_the_first_write_the_check_is_next_and_the_acknowledgement_last(
    journal: Journal, redis: Redis, distance: Consumer, kind: str
) -> None:
    entries = await taken(journal, distance, 2)
    await settled(distance, KINDS[kind](entries[0]))
    await redis.pexpire(keys.status(event_of(entries[1]).id), 1_000_000)
    async with commands(redis) as called:
        await settled(distance, KINDS[kind](entries[1]))
    writes = {"XADD", "SADD", "PUBLISH", "HSET", "PEXPIRE", "ZADD", "XACK", "XDEL"}
    order = [verb for verb in verbs(called) if verb in {*writes, "XPENDING"}]
    own = {
        "complete": ["SADD", "XADD", "PUBLISH", "HSET", "PEXPIRE"],
        "split": ["SADD", "XADD", "PUBLISH", "HSET", "PEXPIRE", "PEXPIRE", "HSET"],
        "park": ["ZADD", "PEXPIRE"],
        "bury": ["SADD", "XADD", "HSET", "PEXPIRE"],
        "delay": ["ZADD", "PEXPIRE"],
    }[kind]
    assert order == ["XACK", "XPENDING", *own, "XACK"]
    acknowledgements = [command for command in called if command.upper().startswith("XACK")]
    assert acknowledgements[0].endswith("0-0")
    assert acknowledgements[1].endswith(entries[1].id)


async def test_complete_never_looks_at_seen_marks(journal: Journal, redis: Redis, distance: Consumer) -> None:
    (entry,) = await taken(journal, distance)
    reply = reply_to(event_of(entry))
    await redis.set(keys.seen(reply.source, reply.id), "carried")
    assert await settled(distance, Complete(entry, reply.id, reply)) == "done"
    assert await redis.xlen(keys.journal(CALCULATED)) == 1


async def test_parked_event_waits_by_due_time_with_since_and_counts(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    (entry,) = await taken(journal, distance)
    before = (await redis.time())[0]
    park = Park(entry, event_of(entry).id, failure(attempts=3, crashes=1), 60)
    assert await settled(distance, park) == "done"
    assert await pending(redis, distance) == 0
    ((member, due),) = await redis.zrange(keys.parked("distance"), 0, -1, withscores=True)
    head, _, text = member.partition(b"\n")
    assert head.split()[1:] == [entry.id.partition("-")[0].encode(), b"3", b"1", RAW.encode()]
    assert text == entry.event
    assert before * 1000 + 60_000 <= due <= (before + 10) * 1000 + 60_000


async def test_delayed_event_waits_until_it_is_that_old_and_its_deadline_counts_from_then(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    (entry,) = await taken(journal, distance)
    older = replace(entry, since=entry.since - 40_000)
    assert await settled(distance, Delay(older, event_of(entry).id, 60)) == "done"
    ((member, due),) = await redis.zrange(keys.parked("distance"), 0, -1, withscores=True)
    assert due == entry.since + 20_000
    assert member.split()[1:4] == [str(round(due)).encode(), b"0", b"0"]


async def test_delayed_event_is_not_buried_after_its_deadline(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    """A bridge that was away for long never tried it."""
    (entry,) = await taken(journal, distance)
    late = replace(entry, since=entry.since - 2 * DAY)
    assert await settled(distance, Delay(late, event_of(entry).id, 60)) == "done"
    assert await redis.xlen(keys.retries("distance", RAW)) == 1
    assert await journal.admin.dead_letters("distance") == []


async def test_overdue_event_is_buried_with_its_reason_after_a_failed_attempt(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    (entry,) = await taken(journal, distance)
    late = replace(entry, since=entry.since - DAY)
    assert await settled(distance, Park(late, event_of(entry).id, failure("HTTP 503", attempts=2), 60)) == "buried"
    assert not await redis.exists(keys.parked("distance"))
    (dead,) = await journal.admin.dead_letters("distance")
    assert dead.reason == "deadline passed; last: HTTP 503"
    assert (dead.event, dead.attempts) == (entry.event, 2)
    assert await pending(redis, distance) == 0


async def test_deadline_is_looked_at_only_after_a_failed_attempt(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    first, second = await taken(journal, distance, 2)
    late = replace(first, since=first.since - DAY)
    assert await settled(distance, KINDS["complete"](late)) == "done"
    almost = replace(second, since=second.since - DAY + 60_000)
    assert await settled(distance, KINDS["park"](almost)) == "done"


async def test_dead_letter_keeps_the_failure_and_the_status_shows_it(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    (entry,) = await taken(journal, distance)
    event = event_of(entry)
    reason = 'HTTP 422: "lat" is no latitude \\ é\n'
    assert await settled(distance, Bury(entry, event.id, failure(reason, attempts=1, crashes=2))) == "buried"
    (dead,) = await journal.admin.dead_letters("distance")
    assert (dead.stage, dead.channel, dead.id, dead.event) == ("distance", RAW, event.id, entry.event)
    assert (dead.reason, dead.status, dead.attempts, dead.crashes) == (reason, 500, 1, 2)
    assert await pending(redis, distance) == 0
    assert (await journal.status(event.id))["dead:distance"].data == {"reason": reason}


# the check that an entry is pending


@each_kind
async def test_second_settlement_is_stale_and_changes_nothing(
    journal: Journal, redis: Redis, distance: Consumer, kind: str
) -> None:
    (entry,) = await taken(journal, distance)
    await settled(distance, KINDS["complete"](entry))
    before = await everything(redis)
    async with heard(redis, CALCULATED) as messages:
        assert await settled(distance, KINDS[kind](entry)) == "stale"
    assert messages == []
    assert await everything(redis) == before


@each_kind
async def test_second_settlement_within_one_round_trip_is_stale(
    journal: Journal, redis: Redis, distance: Consumer, kind: str
) -> None:
    (entry,) = await taken(journal, distance)
    first, second = await distance.settle([KINDS[kind](entry)] * 2)
    assert first in {"done", "buried"}
    assert second == "stale"
    assert await redis.xlen(keys.journal(CALCULATED)) == (kind in {"complete", "split"})


@each_kind
async def test_after_a_takeover_the_first_to_settle_wins_and_the_other_is_stale(
    journal: Journal, redis: Redis, consumers: Consumers, kind: str
) -> None:
    slow, quick = consumers("distance", "slow"), consumers("distance", "quick")
    await made(slow)
    (entry,) = await taken(journal, slow)
    await abandoned(redis, slow, entry)
    (same,) = (await quick.take_over(1, claim=CLAIM)).entries
    assert await settled(quick, KINDS[kind](same)) in {"done", "buried"}
    before = await everything(redis)
    assert await settled(slow, KINDS["complete"](entry)) == "stale"
    assert await everything(redis) == before


@each_kind
async def test_settlement_after_the_group_was_destroyed_is_stale_and_the_event_comes_again(
    journal: Journal, redis: Redis, distance: Consumer, kind: str
) -> None:
    (entry,) = await taken(journal, distance)
    await redis.xgroup_destroy(keys.journal(RAW), "distance")
    assert await settled(distance, KINDS[kind](entry)) == "stale"
    with pytest.raises(GroupMissing):
        await distance.take(1)
    assert await distance.ensure() is True
    assert await distance.take(1) == [entry]


@each_kind
async def test_settlement_after_the_journal_was_deleted_is_stale(
    journal: Journal, redis: Redis, distance: Consumer, kind: str
) -> None:
    (entry,) = await taken(journal, distance)
    await redis.delete(keys.journal(RAW))
    before = await everything(redis)
    assert await settled(distance, KINDS[kind](entry)) == "stale"
    assert await everything(redis) == before


@pytest.mark.parametrize("how", ["xtrim", "xdel"])
async def test_entry_deleted_during_its_delivery_is_settled(
    journal: Journal, redis: Redis, distance: Consumer, how: str
) -> None:
    """The group still has it pending, so its reply is not lost."""
    (entry,) = await taken(journal, distance)
    await (
        redis.xtrim(keys.journal(RAW), maxlen=0, approximate=False)
        if how == "xtrim"
        else redis.xdel(keys.journal(RAW), entry.id)
    )
    assert await settled(distance, KINDS["complete"](entry)) == "done"
    assert await settled(distance, KINDS["complete"](entry)) == "stale"
    assert await redis.xlen(keys.journal(CALCULATED)) == 1


async def test_check_finds_a_pending_entry_among_many_others_of_its_stage(journal: Journal, distance: Consumer) -> None:
    """Entries that are settled together may lie far apart, with many pending ones between them."""
    entries = await taken(journal, distance, 60)
    await settled(distance, Complete(entries[30], "", None))
    chosen = [entries[0], entries[30], entries[31], entries[59]]
    answers = await distance.settle([Complete(entry, "", None) for entry in chosen])
    assert answers == ["done", "stale", "done", "done"]


async def test_each_stage_of_a_channel_settles_for_itself(
    journal: Journal, distance: Consumer, consumers: Consumers
) -> None:
    audit = consumers("audit")
    await made(audit)
    (entry,) = await taken(journal, distance)
    (other,) = await audit.take(1)
    assert await settled(distance, Complete(entry, "", None)) == "done"
    assert await settled(audit, KINDS["park"](other)) == "done"
    assert await settled(audit, Complete(other, "", None)) == "stale"


# refusals


@each_kind
async def test_refused_settlement_leaves_its_event_where_it_was_and_harms_no_other(
    journal: Journal, redis: Redis, distance: Consumer, kind: str
) -> None:
    first, bad, last = await taken(journal, distance, 3)
    parked = keys.parked("distance")
    broken = keys.journal("broken")
    blocked = {"complete": broken, "split": broken, "park": parked, "bury": keys.dead("distance"), "delay": parked}
    await redis.set(blocked[kind], "of another type")
    reply = reply_to(event_of(bad), "broken")
    settlement = KINDS[kind](bad)
    if kind == "complete":
        settlement = Complete(bad, reply.id, reply)
    if kind == "split":  # of which the first could be journaled
        settlement = Split(bad, reply.id, [part_of(bad), part_of(bad, 1, channel="broken")])
    answers = await distance.settle([KINDS["complete"](first), settlement, KINDS["complete"](last)])
    assert answers[::2] == ["done", "done"]
    assert isinstance(answers[1], SettlementRefused)
    assert "WRONGTYPE" in str(answers[1])
    assert [row["message_id"] for row in await redis.xpending_range(keys.journal(RAW), "distance", "-", "+", 9)] == [
        bad.id.encode()
    ]
    assert await redis.xlen(keys.journal(CALCULATED)) == 2
    await redis.delete(blocked[kind])
    assert await settled(distance, settlement) in {"done", "buried"}
    assert await pending(redis, distance) == 0


@pytest.fixture
async def mute(redis: Redis, distance: Consumer, settings: JournalSettings) -> AsyncIterator[Consumer]:
    """A consumer under a user who may not PUBLISH: Redis 7's default for a new user."""
    await redis.acl_setuser("mute", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all"], channels=[])
    url = settings.redis_url.get_secret_value().replace("//", "//mute:pw@")
    scripts = Scripts(connect(JournalSettings.read(redis_url=url)))
    yield Consumer(
        "distance",
        RAW,
        "consumer",
        reader=scripts.connection,
        scripts=scripts,
        deadline=settings.deadline,
    )
    await scripts.close()
    await redis.acl_deluser("mute")


async def test_refused_announcement_leaves_the_event_where_it_was(
    journal: Journal, redis: Redis, distance: Consumer, mute: Consumer
) -> None:
    """Each further try must not add another copy of the reply to the next journal."""
    (entry,) = await taken(journal, distance)
    for _ in range(3):
        answer = await settled(mute, KINDS["complete"](entry))
        assert isinstance(answer, SettlementRefused)
    assert await journaled(redis, CALCULATED) == []
    assert await pending(redis, distance) == 1
    assert await settled(distance, KINDS["complete"](entry)) == "done"
    assert len(await journaled(redis, CALCULATED)) == 1


async def test_split_is_announced_only_if_all_of_its_answers_may_be(
    journal: Journal, redis: Redis, distance: Consumer, mute: Consumer
) -> None:
    """No subscriber may hear of an event that is in no journal."""
    await redis.execute_command("ACL", "SETUSER", "mute", f"&{CALCULATED}")
    (entry,) = await taken(journal, distance)
    of = event_of(entry).id
    split = Split(entry, of, [part_of(entry), part_of(entry, 1, channel="secret")])
    async with heard(redis, CALCULATED) as messages:
        for _ in range(2):
            answer = await settled(mute, split)
            assert isinstance(answer, SettlementRefused)
            assert "may not PUBLISH on secret" in str(answer)
    assert messages == []
    assert await journaled(redis, CALCULATED) == []
    assert await pending(redis, distance) == 1
    assert [*await journal.status(of)] == [RAW]
    assert await journal.status(part_id(of, 0)) == {}
    async with heard(redis, CALCULATED, "secret") as messages:
        assert await settled(distance, split) == "done"
    assert [channel for channel, _ in messages] == [CALCULATED, "secret"]


async def test_refused_status_leaves_no_dead_letter(
    journal: Journal, redis: Redis, distance: Consumer, mute: Consumer
) -> None:
    """Each further try must not add another one."""
    (entry,) = await taken(journal, distance)
    await redis.execute_command("ACL", "SETUSER", "mute", "-hset")
    for _ in range(3):
        assert isinstance(await settled(mute, KINDS["bury"](entry)), SettlementRefused)
    assert await redis.xlen(keys.dead("distance")) == 0
    assert await pending(redis, distance) == 1
    assert await settled(distance, KINDS["bury"](entry)) == "buried"


async def test_settlement_without_a_reply_is_done_beside_one_that_is_refused(
    journal: Journal, distance: Consumer, mute: Consumer
) -> None:
    first, second = await taken(journal, distance, 2)
    answers = await mute.settle([KINDS["complete"](first), Complete(second, "", None)])
    assert isinstance(answers[0], SettlementRefused)
    assert answers[1] == "done"


async def test_settlements_are_unavailable_while_redis_is_away(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    """They may be tried again, and nothing has changed."""
    entries = await taken(journal, distance, len(KINDS))
    await journal.scripts.connection.close()
    answers = await distance.settle([KINDS[kind](entry) for kind, entry in zip(KINDS, entries, strict=True)])
    assert [type(answer) for answer in answers] == [JournalUnavailable] * len(KINDS)
    assert await pending(redis, distance) == len(KINDS)


async def test_each_of_many_settlements_has_its_own_answer(journal: Journal, redis: Redis, distance: Consumer) -> None:
    entries = await taken(journal, distance, 100)
    kinds = list(KINDS) * 20
    await settled(distance, Complete(entries[0], "", None))
    answers = await distance.settle([KINDS[kind](entry) for kind, entry in zip(kinds, entries, strict=True)])
    assert answers == ["stale", *({"bury": "buried"}.get(kind, "done") for kind in kinds[1:])]
    assert await redis.xlen(keys.journal(CALCULATED)) == 39
    assert await redis.zcard(keys.parked("distance")) == 40
    assert await redis.xlen(keys.dead("distance")) == 20
    assert await pending(redis, distance) == 0


async def test_large_replies_are_sent_in_several_round_trips(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    """The arguments of a script are one message to Redis: it must arrive within the time-out."""
    known, *entries = await taken(journal, distance, 8)
    await settled(distance, Complete(known, "", None))  # Redis has the script now
    replies = [reply_to(event_of(entry), data="x" * 600_000) for entry in entries]
    before = await scripts_run(redis)
    answers = await distance.settle(
        [Complete(entry, reply.id, reply) for entry, reply in zip(entries, replies, strict=True)]
    )
    assert answers == ["done"] * 7
    assert await scripts_run(redis) - before == 2, "4 MB at most, and none alone that fits with others"


async def test_many_settlements_are_sent_in_several_round_trips(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    """A script that settles without end holds up everything else in Redis."""
    known, *entries = await taken(journal, distance, 258)
    await settled(distance, Complete(known, "", None))
    before = await scripts_run(redis)
    assert await distance.settle([Complete(entry, "", None) for entry in entries]) == ["done"] * 257
    assert await scripts_run(redis) - before == 2, "256 at most"


async def scripts_run(redis: Redis) -> int:
    stats = await redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


async def test_no_status_is_made_for_an_entry_that_has_no_id(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    """A receiver may give no answers to an entry that holds no event."""
    for settlement in (lambda entry: Complete(entry, "", None), lambda entry: Split(entry, "", [])):
        await redis.xadd(keys.journal(RAW), {"event": "no event"})
        (entry,) = await distance.take(1)
        assert await settled(distance, settlement(entry)) == "done"
    assert not await redis.exists(keys.status(""))
