"""How it is kept, complete, park, bury: a no-op write, the gate, the own write, and XACK last."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from milepost import keys
from milepost.connection import connect
from milepost.errors import JournalUnavailable
from milepost.events.event import Event
from milepost.journal import Act, Bury, Complete, Entry, Group, Hold, Journal, Park, Scripts
from milepost.settings import JournalSettings
from tests.journal.conftest import Groups, Table
from tests.journal.events import (
    CALCULATED,
    RAW,
    READY,
    SENT,
    commands,
    everything,
    heard,
    journaled,
    letter,
    made,
    pending,
    reply_to,
    submission,
    verbs,
)

DAY = 24 * 3600 * 1000
"""Milliseconds."""

KINDS: dict[str, Callable[[Entry], Act]] = {
    "complete": lambda entry: Complete(entry, reply_to(event_of(entry))),
    "park": lambda entry: Park(entry, letter(event_of(entry)), 60),
    "bury": lambda entry: Bury(entry, letter(event_of(entry))),
    "hold": lambda entry: Hold(entry, 60),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def event_of(entry: Entry) -> Event:
    return Event.from_json(entry.event)


@pytest.fixture
async def distance(redis: Redis, groups: Groups) -> Group:
    group = groups("distance")
    await group.ensure()
    return group


async def taken(journal: Journal, group: Group, count: int = 1) -> list[Entry]:
    """Entries of `count` new events, read by the group."""
    for _ in range(count):
        await journal.publish(submission(channel=group.channel))
    return await group.read(count, block=READY) or []


async def test_an_event_leaves_one_journal_as_it_enters_the_next(
    journal: Journal, redis: Redis, distance: Group
) -> None:
    (entry,) = await taken(journal, distance)
    reply = reply_to(event_of(entry), data={"email": "someone@example.org", "distance_from_velocity": 1.5})
    async with heard(redis, CALCULATED) as messages:
        assert await distance.settle(Complete(entry, reply)) == "done"
    assert await pending(redis, distance) == 0
    ((following, fields),) = await redis.xrange(keys.journal(CALCULATED))
    assert fields == {b"event": reply.to_json().encode()}
    assert messages == [
        (CALCULATED, b'{"journalid":"' + following + b'",' + reply.to_json().encode().removeprefix(b"{"))
    ]
    assert list(await journal.progress(reply.id)) == [RAW, CALCULATED]
    assert await redis.get(keys.seen(reply.source, reply.id)) == b"carried"


async def test_a_delivery_without_a_reply_is_acknowledged_and_publishes_nothing(
    journal: Journal, redis: Redis, distance: Group
) -> None:
    (entry,) = await taken(journal, distance)
    assert await distance.settle(Complete(entry, None)) == "done"
    assert await pending(redis, distance) == 0
    assert await redis.smembers(keys.JOURNALS) == {RAW.encode()}


async def test_a_reply_on_a_channel_that_no_stage_consumes_is_announced(
    journal: Journal, redis: Redis, groups: Groups, table: Table
) -> None:
    await table(email=("user:email", SENT))
    email = groups("email", channel="user:email")
    await made(email)
    (entry,) = await taken(journal, email)
    reply = reply_to(event_of(entry), SENT)
    async with heard(redis, SENT) as messages:
        await email.settle(Complete(entry, reply))
    assert messages == [(SENT, reply.to_json().encode())]
    assert not await redis.exists(keys.journal(SENT))
    assert await pending(redis, email) == 0


@each_kind
async def test_the_no_op_write_comes_first_then_the_gate_and_the_acknowledgement_last(
    journal: Journal, redis: Redis, distance: Group, kind: str
) -> None:
    entries = await taken(journal, distance, 2)
    await distance.settle(KINDS[kind](entries[0]))
    async with commands(redis) as called:
        await distance.settle(KINDS[kind](entries[1]))
    writes = {"XADD", "SADD", "SET", "PUBLISH", "HSET", "PEXPIRE", "ZADD", "XACK"}
    order = [verb for verb in verbs(called) if verb in {*writes, "XPENDING"}]
    own = {
        "complete": ["XADD", "SADD", "SET", "PUBLISH", "HSET", "PEXPIRE"],
        "park": ["ZADD"],
        "bury": ["XADD", "SADD", "HSET", "PEXPIRE"],
        "hold": ["ZADD"],
    }[kind]
    assert order == ["XACK", "XPENDING", *own, "XACK"]
    acknowledgements = [command for command in called if command.upper().startswith("XACK")]
    assert acknowledgements[0].endswith("0-0")
    assert acknowledgements[1].endswith(entries[1].id)


async def test_complete_never_looks_at_seen(journal: Journal, redis: Redis, distance: Group) -> None:
    (entry,) = await taken(journal, distance)
    reply = reply_to(event_of(entry))
    await redis.set(keys.seen(reply.source, reply.id), "carried")
    assert await distance.settle(Complete(entry, reply)) == "done"
    assert await redis.xlen(keys.journal(CALCULATED)) == 1


async def test_a_parked_event_waits_by_due_time_with_since_and_counts(
    journal: Journal, redis: Redis, distance: Group
) -> None:
    (entry,) = await taken(journal, distance)
    before = (await redis.time())[0]
    assert await distance.settle(Park(entry, letter(event_of(entry), attempts=3, crashes=1), 60)) == "done"
    assert await pending(redis, distance) == 0
    ((member, due),) = await redis.zrange(keys.waiting("distance"), 0, -1, withscores=True)
    head, _, text = member.partition(b"\n")
    assert head.split()[1:] == [entry.id.partition("-")[0].encode(), b"3", b"1", RAW.encode()]
    assert text == entry.event
    assert before * 1000 + 60_000 <= due <= (before + 10) * 1000 + 60_000


async def test_an_overdue_event_is_buried_with_its_reason_after_a_failed_attempt(
    journal: Journal, redis: Redis, distance: Group
) -> None:
    (entry,) = await taken(journal, distance)
    late = replace(entry, since=entry.since - DAY)
    assert await distance.settle(Park(late, letter(event_of(entry), "HTTP 503", attempts=2), 60)) == "buried"
    assert not await redis.exists(keys.waiting("distance"))
    (dead,) = await journal.dead_letters("distance")
    assert dead.reason == "deadline passed; last: HTTP 503"
    assert (dead.event, dead.attempts) == (entry.event, 2)
    assert await pending(redis, distance) == 0


async def test_the_deadline_is_looked_at_only_after_a_failed_attempt(
    journal: Journal, distance: Group, redis: Redis
) -> None:
    first, second = await taken(journal, distance, 2)
    late = replace(first, since=first.since - DAY)
    assert await distance.settle(Complete(late, reply_to(event_of(first)))) == "done"
    almost = replace(second, since=second.since - DAY + 60_000)
    assert await distance.settle(Park(almost, letter(event_of(second)), 60)) == "done"


async def test_a_dead_letter_keeps_what_is_known_and_progress_notes_it(
    journal: Journal, redis: Redis, distance: Group
) -> None:
    (entry,) = await taken(journal, distance)
    event = event_of(entry)
    reason = 'HTTP 422: "lat" is no latitude \\ é\n'
    assert await distance.settle(Bury(entry, letter(event, reason, attempts=1, crashes=2))) == "buried"
    (dead,) = await journal.dead_letters("distance")
    assert (dead.stage, dead.channel, dead.id, dead.event) == ("distance", RAW, event.id, entry.event)
    assert (dead.reason, dead.status, dead.attempts, dead.crashes) == (reason, 500, 1, 2)
    assert await pending(redis, distance) == 0
    assert (await journal.progress(event.id))["dead:distance"].data == {"reason": reason}


@each_kind
async def test_a_second_settlement_is_stale_and_does_nothing(
    journal: Journal, redis: Redis, distance: Group, kind: str
) -> None:
    (entry,) = await taken(journal, distance)
    await distance.settle(Complete(entry, reply_to(event_of(entry))))
    before = await everything(redis)
    async with heard(redis, CALCULATED) as messages:
        assert await distance.settle(KINDS[kind](entry)) == "stale"
    assert messages == []
    assert await everything(redis) == before


@each_kind
async def test_after_a_takeover_the_first_to_settle_wins_and_the_other_is_stale(
    journal: Journal, redis: Redis, groups: Groups, kind: str
) -> None:
    slow, quick = groups("distance", "slow"), groups("distance", "quick")
    await made(slow)
    (entry,) = await taken(journal, slow)
    _, (same,), _ = await quick.takeover(1, claim=0, held=[], cursor="0-0")
    assert await quick.settle(KINDS[kind](same)) in {"done", "buried"}
    before = await everything(redis)
    assert await slow.settle(Complete(entry, reply_to(event_of(entry)))) == "stale"
    assert await everything(redis) == before


@each_kind
async def test_a_settlement_after_the_group_was_destroyed_is_stale_and_the_event_comes_again(
    journal: Journal, redis: Redis, distance: Group, kind: str
) -> None:
    (entry,) = await taken(journal, distance)
    await redis.xgroup_destroy(keys.journal(RAW), "distance")
    assert await distance.settle(KINDS[kind](entry)) == "stale"
    assert await distance.read(1, block=READY) is None
    assert await distance.ensure() is True
    assert await distance.read(1, block=READY) == [entry]


@each_kind
async def test_a_settlement_after_the_journal_was_deleted_is_stale(
    journal: Journal, redis: Redis, distance: Group, kind: str
) -> None:
    (entry,) = await taken(journal, distance)
    await redis.delete(keys.journal(RAW))
    before = await everything(redis)
    assert await distance.settle(KINDS[kind](entry)) == "stale"
    assert await everything(redis) == before


@pytest.mark.parametrize("how", ["xtrim", "xdel"])
async def test_an_entry_deleted_while_on_the_wire_is_settled_all_the_same(
    journal: Journal, redis: Redis, distance: Group, how: str
) -> None:
    """The group still has it on its books, so its reply is not lost."""
    (entry,) = await taken(journal, distance)
    await (
        redis.xtrim(keys.journal(RAW), maxlen=0, approximate=False)
        if how == "xtrim"
        else redis.xdel(keys.journal(RAW), entry.id)
    )
    assert await distance.settle(Complete(entry, reply_to(event_of(entry)))) == "done"
    assert await distance.settle(Complete(entry, reply_to(event_of(entry)))) == "stale"
    assert await redis.xlen(keys.journal(CALCULATED)) == 1


@each_kind
async def test_an_error_leaves_the_event_where_it_was_and_harms_no_neighbour(
    journal: Journal, redis: Redis, distance: Group, kind: str
) -> None:
    first, bad, last = await taken(journal, distance, 3)
    waiting = keys.waiting("distance")
    blocked = {"complete": keys.journal("broken"), "park": waiting, "bury": keys.dead("distance"), "hold": waiting}
    await redis.set(blocked[kind], "of another type")
    act = KINDS[kind](bad) if kind != "complete" else Complete(bad, reply_to(event_of(bad), "broken"))
    answers = await asyncio.gather(
        distance.settle(Complete(first, reply_to(event_of(first)))),
        distance.settle(act),
        distance.settle(Complete(last, reply_to(event_of(last)))),
        return_exceptions=True,
    )
    assert answers[::2] == ["done", "done"]
    assert isinstance(answers[1], JournalUnavailable)
    assert [row["message_id"] for row in await redis.xpending_range(keys.journal(RAW), "distance", "-", "+", 9)] == [
        bad.id.encode()
    ]
    assert await redis.xlen(keys.journal(CALCULATED)) == 2
    await redis.delete(blocked[kind])
    assert await distance.settle(act) in {"done", "buried"}
    assert await pending(redis, distance) == 0


async def test_a_refused_announcement_leaves_the_event_where_it_was(
    journal: Journal, redis: Redis, distance: Group, settings: JournalSettings
) -> None:
    """A Redis user without channels must not fill the next journal with one copy of the reply for each try."""
    (entry,) = await taken(journal, distance)
    await redis.acl_setuser("mute", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all"], channels=[])
    url = settings.redis_url.get_secret_value().replace("//", "//mute:pw@")
    scripts = Scripts(connect(JournalSettings.read(redis_url=url)))
    mute = Group(
        RAW,
        "distance",
        "consumer",
        reader=scripts.line,
        scripts=scripts,
        keeping=journal.keeping,
        deadline=settings.deadline,
    )
    for _ in range(3):
        with pytest.raises(JournalUnavailable):
            await mute.settle(Complete(entry, reply_to(event_of(entry))))
    await scripts.close()
    await redis.acl_deluser("mute")
    assert await journaled(redis, CALCULATED) == []
    assert await pending(redis, distance) == 1
    assert await distance.settle(Complete(entry, reply_to(event_of(entry)))) == "done"
    assert len(await journaled(redis, CALCULATED)) == 1


async def test_each_of_many_settlements_at_once_has_its_own_answer(
    journal: Journal, redis: Redis, distance: Group
) -> None:
    entries = await taken(journal, distance, 80)
    kinds = list(KINDS) * 20
    await distance.settle(Complete(entries[0], None))
    answers = await asyncio.gather(
        *(distance.settle(KINDS[kind](entry)) for kind, entry in zip(kinds, entries, strict=True))
    )
    assert answers == ["stale", *({"bury": "buried"}.get(kind, "done") for kind in kinds[1:])]
    assert await redis.xlen(keys.journal(CALCULATED)) == 19
    assert await redis.zcard(keys.waiting("distance")) == 40
    assert await redis.xlen(keys.dead("distance")) == 20
    assert await pending(redis, distance) == 0


async def test_each_group_of_a_channel_settles_for_itself(
    journal: Journal, redis: Redis, distance: Group, groups: Groups
) -> None:
    audit = groups("audit")
    await made(audit)
    (entry,) = await taken(journal, distance)
    (other,) = await audit.read(1, block=READY) or []
    assert await distance.settle(Complete(entry, None)) == "done"
    assert await audit.settle(Park(other, letter(event_of(other)), 60)) == "done"
    assert await audit.settle(Complete(other, None)) == "stale"


async def test_large_replies_travel_apart(journal: Journal, redis: Redis, distance: Group) -> None:
    """A script's arguments are one message to Redis: it has to arrive within the time-out."""
    known, *entries = await taken(journal, distance, 11)
    await distance.settle(Complete(known, None))  # Redis has the script now
    replies = [reply_to(event_of(entry), data="x" * 600_000) for entry in entries]
    before = await scripts_run(redis)
    answers = await asyncio.gather(
        *(distance.settle(Complete(entry, reply)) for entry, reply in zip(entries, replies, strict=True))
    )
    assert answers == ["done"] * 10
    assert await scripts_run(redis) - before == 2, "4 MB at most, and none alone that may go with others"


async def scripts_run(redis: Redis) -> int:
    stats = await redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))
