"""Errors of the journal when Redis cannot be reached or refuses: they name the server and why, never the password."""

import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from milepost.errors import JournalUnavailable
from milepost.journal import Adoption, Complete, Consumer, Entry, Journal, Maintenance, Unreadable, Wiring, keys
from milepost.journal.scripts import ask_list
from milepost.journal.stats import Counts, Slot, read, write
from milepost.settings import JournalSettings
from tests.journal.events import RAW, failure, maintenance_of, submission
from tests.servers import free_port

PASSWORD = "hush-hush"
ENTRY = Entry(keys.journal(RAW), "1-1", RAW, b"{}", 1)


@dataclass(frozen=True)
class Side:
    """All that has a connection to Redis."""

    journal: Journal
    maintenance: Maintenance
    consumer: Consumer


async def settle(side: Side) -> None:
    """Settle one delivery, and raise the answer if it is an exception."""
    (answer,) = await side.consumer.settle([Complete(ENTRY, "one", None)])
    if isinstance(answer, Exception):
        raise answer


ROUTES = {"distance": Wiring([RAW], [], "")}

CALLS: dict[str, Callable[[Side], Awaitable[object]]] = {
    "publish": lambda side: side.journal.publish(submission()),
    "status": lambda side: side.journal.status("one"),
    "reached": lambda side: side.journal.reached(["one"]),
    "ask for a wake-up": lambda side: side.journal.wake_ups.ask(RAW, every=1),
    "asked": lambda side: side.journal.wake_ups.asked(),
    "starting": lambda side: side.journal.wake_ups.starting(["distance"]),
    "backlog": lambda side: side.journal.backlog(),
    "ping": lambda side: side.journal.ping(),
    "stages": lambda side: side.journal.admin.stages(),
    "depths": lambda side: side.journal.admin.depths({"distance": [RAW]}),
    "unconsumed": lambda side: side.journal.admin.unconsumed(),
    "forget": lambda side: side.journal.admin.forget("distance"),
    "forget_journal": lambda side: side.journal.admin.forget_journal(RAW),
    "dead_stages": lambda side: side.journal.admin.dead_stages(),
    "dead_letters": lambda side: side.journal.admin.dead_letters("distance"),
    "left_behind": lambda side: side.journal.admin.left_behind(),
    "pause": lambda side: side.journal.scripts.pause(stage="distance"),
    "resume": lambda side: side.journal.admin.resume("distance"),
    "check_writable": lambda side: side.journal.check_writable(),
    "replay": lambda side: side.journal.admin.replay("distance", ["1-1"]),
    "drop": lambda side: side.journal.admin.drop("distance", ["1-1"]),
    "adopt": lambda side: side.maintenance.adopt([Adoption(submission(), None)]),
    "announce": lambda side: side.maintenance.announce(submission()),
    "bury_given_up": lambda side: side.maintenance.bury_given_up("distance", submission(), failure()),
    "unreadable": lambda side: side.maintenance.unreadable([Unreadable(RAW, b"", "")]),
    "lease": lambda side: side.maintenance.lease("token", ttl=1, known=None),
    "release": lambda side: side.maintenance.release("token"),
    "beat": lambda side: side.maintenance.beat(ROUTES),
    "switch": lambda side: side.maintenance.switch(ROUTES),
    "retry_due": lambda side: side.maintenance.retry_due(["distance"], most=1),
    "journals": lambda side: side.maintenance.journals(),
    "trim": lambda side: side.maintenance.trim(RAW),
    "unblock_lost": lambda side: side.maintenance.unblock_lost(ROUTES),
    "keep_statuses": lambda side: side.maintenance.keep_statuses(RAW),
    "ensure": lambda side: side.consumer.ensure(),
    "take": lambda side: side.consumer.take(1),
    "wait": lambda side: side.consumer.wait(1, block=0.1),
    "reread": lambda side: side.consumer.reread(),
    "settle": settle,
    "renew": lambda side: side.consumer.renew([ENTRY]),
    "hand_back": lambda side: side.consumer.hand_back(claim=1),
    "reap": lambda side: side.consumer.reap(idle=1),
    "write stats": lambda side: write(side.journal.scripts, "one", {"distance": [Slot(0, Counts(1))]}),
    "read stats": lambda side: read(side.journal.scripts),
}


@pytest.mark.parametrize("fault", ["away", "wrong password", "no rights"])
@pytest.mark.parametrize("call", CALLS)
async def test_every_call_raises_journal_unavailable_and_no_text_holds_the_password(
    redis: Redis,
    redis_url: str,
    opened: Callable[[JournalSettings], Journal],
    call: str,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    at = redis_url.partition("//")[2]
    url = {
        "away": f"redis://:{PASSWORD}@127.0.0.1:{free_port()}",
        "wrong password": f"redis://somebody:{PASSWORD}@{at}",
        "no rights": f"redis://nobody:{PASSWORD}@{at}",
    }[fault]
    await redis.acl_setuser("nobody", enabled=True, passwords=[f"+{PASSWORD}"])
    settings = JournalSettings.read(redis_url=url)
    journal = opened(settings)
    consumer = Consumer(
        "distance",
        RAW,
        "one",
        reader=journal.scripts.connection,
        scripts=journal.scripts,
        deadline=settings.deadline,
    )
    with pytest.raises(JournalUnavailable) as caught:
        await CALLS[call](Side(journal, maintenance_of(journal, settings), consumer))
    await redis.acl_deluser("nobody")
    assert str(caught.value).startswith("Redis")
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in repr(journal.redis)
    assert PASSWORD not in caplog.text


async def test_pauses_are_not_taken_for_none_while_redis_is_away(opened: Callable[[JournalSettings], Journal]) -> None:
    away = opened(JournalSettings.read(redis_url=f"redis://127.0.0.1:{free_port()}"))
    with pytest.raises(JournalUnavailable):
        await away.admin.paused()


async def test_list_of_an_absent_key_or_group_or_of_another_type_is_empty(journal: Journal, redis: Redis) -> None:
    await redis.set("text", "")
    await redis.xadd("stream", {"event": "{}"})
    for call in (
        journal.redis.xinfo_groups("absent"),
        journal.redis.xinfo_groups("text"),
        journal.redis.xpending_range("stream", "absent", "-", "+", 1),
    ):
        assert list(await ask_list(call)) == []
    with pytest.raises(JournalUnavailable, match="NONSENSE"):
        await ask_list(journal.redis.execute_command("NONSENSE"))
