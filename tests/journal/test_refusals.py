"""Refusals inside scripts: one of the server fails the whole call, one of an item only this item."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis, from_url
from redis.exceptions import ResponseError

from milepost.errors import EventError, JournalUnavailable
from milepost.events.event import MAX_EVENT, Event
from milepost.journal import (
    Adoption,
    Bury,
    Complete,
    Consumer,
    Delay,
    Entry,
    Journal,
    Maintenance,
    Park,
    Scripts,
    Settlement,
    SettlementRefused,
    Unreadable,
    Wiring,
    keys,
)
from milepost.journal.connection import connect
from milepost.journal.refusals import NOT_HERE
from milepost.journal.scripts import OWN, SCRIPTS
from milepost.settings import JournalSettings
from tests.journal.events import (
    CALCULATED,
    CLAIM,
    RAW,
    event_of,
    everything,
    failure,
    journaled,
    made,
    maintenance_of,
    pending,
    reply_to,
    submission,
    taken,
)
from tests.servers import HOST, WITHIN, Valkey, eventually, free_port


@dataclass(frozen=True)
class Side:
    """All that reaches one server: of its own, because it becomes a replica."""

    redis: Redis
    journal: Journal
    maintenance: Maintenance
    consumer: Consumer
    entries: list[Entry]

    async def demote(self) -> None:
        """Make the server a replica that has lost its primary: it answers reads and refuses writes."""
        await self.redis.replicaof(HOST, str(free_port()))

    async def promote(self) -> None:
        await self.redis.replicaof("NO", "ONE")


@pytest.fixture
async def side(tmp_path: Path) -> AsyncIterator[Side]:
    """A server with events in every state, four of them pending."""
    with Valkey(tmp_path) as valkey:
        given = JournalSettings.read(redis_url=valkey.url)
        redis = from_url(valkey.url)
        journal = Journal(connect(given), given)
        maintenance = maintenance_of(journal, given)
        consumer = Consumer(
            "distance",
            RAW,
            "one",
            reader=journal.scripts.connection,
            scripts=journal.scripts,
            deadline=given.deadline,
        )
        await maintenance.beat({"distance": Wiring([RAW], [CALCULATED], "")})
        await made(consumer)
        entries = await taken(journal, consumer, 6)
        await consumer.settle([Park(entries[4], "", failure(), 0), Bury(entries[5], "", failure())])
        await journal.publish(submission())
        yield Side(redis, journal, maintenance, consumer, entries[:4])
        await journal.close()
        await redis.aclose()


async def replay(side: Side) -> int:
    (dead,) = await side.journal.admin.dead_letters("distance")
    return await side.journal.admin.replay("distance", [dead.entry])


async def settle_one(side: Side) -> None:
    (answer,) = await side.consumer.settle([Complete(side.entries[0], "", None)])
    if isinstance(answer, Exception):
        raise answer


CALLS: dict[str, Callable[[Side], Awaitable[object]]] = {
    "publish": lambda side: side.journal.publish(submission()),
    "adopt": lambda side: side.maintenance.adopt([Adoption(submission(), None)] * 2),
    "announce": lambda side: side.maintenance.announce(submission()),
    "bury_given_up": lambda side: side.maintenance.bury_given_up("distance", submission(), failure()),
    "unreadable": lambda side: side.maintenance.unreadable([Unreadable(RAW, b"", "")]),
    "lease": lambda side: side.maintenance.lease("token", ttl=10, known=None),
    "beat": lambda side: side.maintenance.beat({"distance": Wiring([RAW], [], "")}),
    "retry_due": lambda side: side.maintenance.retry_due(["distance"], most=9),
    "trim": lambda side: side.maintenance.trim(RAW),
    "ensure": lambda side: side.consumer.ensure(),
    "take": lambda side: side.consumer.take(9),
    "take over": lambda side: side.consumer.take_over(9, claim=CLAIM),
    "wait": lambda side: side.consumer.wait(9, block=1),
    "renew": lambda side: side.consumer.renew(side.entries),
    "hand_back": lambda side: side.consumer.hand_back(claim=1),
    "replay": replay,
    "forget_journal": lambda side: side.journal.admin.forget_journal("other"),
}

READS: dict[str, Callable[[Side], Awaitable[object]]] = {
    **CALLS,
    "depths": lambda side: side.journal.admin.depths({"distance": [RAW]}),
    "keep_statuses": lambda side: side.maintenance.keep_statuses(RAW),
    "reap": lambda side: side.consumer.reap(idle=1),
    "settle": settle_one,
}


@pytest.mark.parametrize("call", CALLS)
async def test_read_only_server_is_an_error_of_the_whole_call(side: Side, call: str) -> None:
    before = await everything(side.redis)
    await side.demote()
    with pytest.raises(JournalUnavailable, match="read-only"):
        await CALLS[call](side)
    assert await everything(side.redis) == before
    await side.promote()
    await CALLS[call](side)


@pytest.mark.parametrize(
    ("forbidden", "call"),
    [
        ("get", "lease"),
        ("hgetall", "trim"),
        ("xinfo", "trim"),
        ("xinfo", "keep_statuses"),
        ("xinfo", "reap"),
        ("xlen", "forget_journal"),
        ("xlen", "depths"),
        ("xpending", "hand_back"),
        ("xpending", "renew"),
        ("xpending", "settle"),
        ("xgroup|create", "ensure"),
        ("xrange", "keep_statuses"),
    ],
)
async def test_forbidden_read_is_not_taken_for_a_missing_key(side: Side, forbidden: str, call: str) -> None:
    """A bridge that took it for one would believe that it has lost its claims, or that no stage consumes a channel."""
    before = await everything(side.redis)
    await side.redis.execute_command("ACL", "SETUSER", "default", f"-{forbidden}")
    with pytest.raises(JournalUnavailable, match="no permissions"):
        await READS[call](side)
    await side.redis.execute_command("ACL", "SETUSER", "default", f"+{forbidden}")
    assert await everything(side.redis) == before


@pytest.mark.parametrize("told", [f"ERR Script attempted to access {NOT_HERE[0]} script", f"ERR Script {NOT_HERE[1]}"])
async def test_refusal_of_a_node_without_our_keys_is_of_the_server(redis: Redis, told: str) -> None:
    """Were it the answer of one item, the bridge would count it as that event's failure."""
    script = f"""
        if not is_of_server('{told}') or is_of_server('ERR no such key') then return 0 end
        return attempt(function() error({{ err = '{told}' }}) end)
    """
    with pytest.raises(ResponseError, match="^" + told.removeprefix("ERR ")):
        await redis.eval(SCRIPTS["adopt"].removesuffix(OWN["adopt"]) + script, 1, keys.JOURNALS)


async def test_read_only_server_answers_reads(side: Side) -> None:
    await side.demote()
    assert await side.journal.backlog() == 7
    assert [stage.name for stage in await side.journal.admin.stages()] == ["distance"]
    assert await side.journal.status(event_of(side.entries[0]).id)


async def test_read_only_server_leaves_every_settlement_to_be_tried_again(side: Side) -> None:
    """Were its refusal the answer of one item, the bridge would count it as that event's failure and bury it."""
    event = event_of(side.entries[0])
    settlements: list[Settlement] = [
        Complete(side.entries[0], event.id, reply_to(event)),
        Park(side.entries[1], "", failure(), 60),
        Bury(side.entries[2], "", failure()),
        Delay(side.entries[3], "", 60),
    ]
    before = await everything(side.redis)
    await side.demote()
    answers = await side.consumer.settle(settlements)
    assert [type(answer) for answer in answers] == [JournalUnavailable] * 4
    assert all("read-only" in str(answer) for answer in answers)
    assert await everything(side.redis) == before
    await side.promote()
    assert await side.consumer.settle(settlements) == ["done", "done", "buried", "done"]


async def have_too_few_replicas(side: Side) -> None:
    await side.redis.config_set("min-replicas-to-write", 1)


async def fail_to_save(side: Side) -> None:
    """Take the server's folder away, so that its snapshots fail: it stops to take writes then."""
    shutil.rmtree((await side.redis.config_get("dir"))["dir"])
    await side.redis.config_set("save", "3600 1")
    await side.redis.bgsave()

    async def failed() -> bool:
        return bool((await side.redis.info("persistence"))["rdb_last_bgsave_status"] == "err")

    await eventually(failed)


@pytest.mark.parametrize(
    ("cause", "reason"),
    [(have_too_few_replicas, "fewer replicas"), (fail_to_save, "MISCONF")],
    ids=["replicas", "disk"],
)
async def test_server_that_takes_no_writes_fails_every_item_of_a_batch(
    side: Side, cause: Callable[[Side], Awaitable[None]], reason: str
) -> None:
    """It refuses each write of a script by itself."""
    events = [submission() for _ in range(3)]
    await cause(side)
    answers = await asyncio.gather(*(side.journal.publish(event) for event in events), return_exceptions=True)
    assert [type(answer) for answer in answers] == [JournalUnavailable] * 3
    assert all(reason in str(answer) for answer in answers)
    with pytest.raises(JournalUnavailable, match=reason):
        await side.maintenance.adopt([Adoption(event, None) for event in events])
    with pytest.raises(JournalUnavailable, match=reason):
        await side.maintenance.retry_due(["distance"], most=9)
    (answer,) = await side.consumer.settle([Complete(side.entries[0], "", None)])
    assert isinstance(answer, JournalUnavailable)
    await side.journal.ping()
    with pytest.raises(JournalUnavailable, match=reason):
        await side.journal.check_writable()
    await side.redis.config_set("min-replicas-to-write", 0)
    await side.redis.config_set("stop-writes-on-bgsave-error", "no")
    await side.redis.config_set("save", "")  # or it could not end
    assert await asyncio.gather(*(side.journal.publish(event) for event in events)) == [True] * 3


# refusals of one item


@pytest.fixture
async def narrow(
    redis: Redis, distance: Consumer, settings: JournalSettings, opened: Callable[[JournalSettings], Journal]
) -> AsyncIterator[tuple[Journal, Consumer]]:
    """A journal and a consumer under a user who may not touch the keys of the channel `secret`."""
    hidden = [keys.dead("distance"), keys.parked("distance"), keys.journal("secret")]
    allowed = [keys.JOURNALS, keys.STAGES, keys.DEAD, keys.BACKLOG, keys.journal(RAW), keys.journal(CALCULATED)]
    allowed += [keys.journal(":none"), keys.JOURNALS + ":none", keys.RETRIES + "*", keys.SEEN + "*", keys.status("*")]
    assert not set(hidden) & set(allowed)
    await redis.acl_setuser("narrow", enabled=True, passwords=["+pw"], keys=allowed, channels=["*"], commands=["+@all"])
    url = settings.redis_url.get_secret_value().replace("//", "//narrow:pw@")
    given = JournalSettings.read(redis_url=url)
    journal = opened(given)
    scripts = Scripts(connect(given))
    yield (
        journal,
        Consumer("distance", RAW, "consumer", reader=scripts.connection, scripts=scripts, deadline=given.deadline),
    )
    await scripts.close()
    await redis.acl_deluser("narrow")


async def test_key_that_the_user_may_not_write_refuses_one_settlement(
    journal: Journal, redis: Redis, distance: Consumer, narrow: tuple[Journal, Consumer]
) -> None:
    first, bad, last = await taken(journal, distance, 3)
    reply = reply_to(event_of(bad), "secret")
    _, consumer = narrow
    answers = await consumer.settle(
        [Complete(first, "", None), Complete(bad, reply.id, reply), Complete(last, "", None)]
    )
    assert answers[::2] == ["done", "done"]
    assert isinstance(answers[1], SettlementRefused)
    parked, buried = await consumer.settle([Park(bad, "", failure(), 60), Bury(bad, "", failure())])
    assert isinstance(parked, SettlementRefused)
    assert isinstance(buried, SettlementRefused)
    assert await pending(redis, distance) == 1


async def test_key_that_the_user_may_not_write_refuses_one_event_of_those_published_together(
    redis: Redis, narrow: tuple[Journal, Consumer]
) -> None:
    journal, _ = narrow
    channels = [RAW, "secret", CALCULATED]
    answers = await asyncio.gather(
        *(journal.publish(submission(channel=channel)) for channel in channels), return_exceptions=True
    )
    assert answers[::2] == [True, True]
    assert isinstance(answers[1], JournalUnavailable)


# items that cannot be written


def broken() -> Event:
    """Return an event that UTF-8 cannot hold. Event itself refuses one, so this is a fault in the code before."""
    event = submission()
    object.__setattr__(event, "id", "\ud800")
    return event


async def test_event_that_cannot_be_encoded_fails_alone(journal: Journal, redis: Redis) -> None:
    good = [submission() for _ in range(4)]
    async with asyncio.timeout(WITHIN):
        answers = await asyncio.gather(
            *(journal.publish(event) for event in (*good[:2], broken(), *good[2:])), return_exceptions=True
        )
        assert isinstance(answers.pop(2), UnicodeEncodeError)
        assert answers == [True] * 4
        assert await journal.publish(submission()) is True
    assert len(await journaled(redis, RAW)) == 5


@pytest.mark.parametrize("kind", ["reply", "large reply", "id", "parked", "buried"])
async def test_settlement_that_cannot_be_encoded_fails_alone(
    journal: Journal, redis: Redis, distance: Consumer, kind: str
) -> None:
    first, bad, last = await taken(journal, distance, 3)
    settlement = {
        "reply": Complete(bad, "one", broken()),
        "large reply": Complete(bad, "one", reply_to(event_of(bad), data="é" * (MAX_EVENT // 3))),
        "id": Complete(bad, "\ud800", None),
        "parked": Park(bad, "\ud800", failure(), 60),
        "buried": Bury(bad, "\ud800", failure()),
    }[kind]
    async with asyncio.timeout(WITHIN):
        answers = await distance.settle(
            [Complete(first, "", reply_to(event_of(first))), settlement, Complete(last, "", None)]
        )
        assert answers[::2] == ["done", "done"]
        assert isinstance(answers[1], EventError)
        assert await distance.settle([Bury(bad, event_of(bad).id, failure("its reply was refused"))]) == ["buried"]
    assert await pending(redis, distance) == 0


async def test_reason_of_a_failure_may_hold_any_character(journal: Journal, distance: Consumer) -> None:
    """It comes from a response, and a bad one must not keep the event from being buried."""
    for reason in ("\ud800", "\0", '"\\', "é\n", ""):
        (entry,) = await taken(journal, distance)
        assert await distance.settle([Bury(entry, event_of(entry).id, failure(reason))]) == ["buried"]
    reasons = [dead.reason for dead in await journal.admin.dead_letters("distance")]
    assert reasons == ["?", "\0", '"\\', "é\n", ""]


async def test_data_with_lone_surrogates_is_kept_as_it_is(journal: Journal, redis: Redis, distance: Consumer) -> None:
    """JSON may hold them as escapes, and so it is written."""
    event = submission(data={"email": "\ud800"})
    await journal.publish(event)
    (entry,) = await distance.take(1)
    assert event_of(entry).data == event.data
    assert (await journal.status(event.id))[RAW].data == event.data
