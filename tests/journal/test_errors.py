"""What the journal says when Redis cannot be reached or refuses: which server and why, never the password."""

import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from milepost.errors import JournalUnavailable
from milepost.journal import Complete, Entry, Foreign, Group, Journal, Unreadable, Upkeep, Wiring
from milepost.settings import JournalSettings
from tests.journal.events import RAW, submission
from tests.servers import free_port

PASSWORD = "hush-hush"
ENTRY = Entry("1-1", RAW, b"{}", "", 1, 0, 0)


@dataclass(frozen=True)
class Side:
    """All that has a connection to Redis."""

    journal: Journal
    upkeep: Upkeep
    group: Group


CALLS: dict[str, Callable[[Side], Awaitable[object]]] = {
    "publish": lambda side: side.journal.publish(submission()),
    "progress": lambda side: side.journal.progress("one"),
    "backlog": lambda side: side.journal.backlog(),
    "ping": lambda side: side.journal.ping(),
    "stages": lambda side: side.journal.stages(),
    "forget": lambda side: side.journal.forget("distance"),
    "dead_stages": lambda side: side.journal.dead_stages(),
    "dead_letters": lambda side: side.journal.dead_letters("distance"),
    "replay": lambda side: side.journal.replay("distance", ["1-1"]),
    "drop": lambda side: side.journal.drop("distance", ["1-1"]),
    "adopt": lambda side: side.upkeep.adopt([Foreign(submission(), None)]),
    "announce": lambda side: side.upkeep.announce(submission()),
    "unreadable": lambda side: side.upkeep.unreadable([Unreadable(RAW, b"", "")]),
    "lease": lambda side: side.upkeep.lease("token", ttl=1, tell=False),
    "release": lambda side: side.upkeep.release("token"),
    "beat": lambda side: side.upkeep.beat({"distance": Wiring([RAW], [], "")}),
    "wake": lambda side: side.upkeep.wake(["distance"], most=1),
    "trim": lambda side: side.upkeep.trim(RAW),
    "ensure": lambda side: side.group.ensure(),
    "read": lambda side: side.group.read(1, block=0.1),
    "reread": lambda side: side.group.reread(),
    "settle": lambda side: side.group.settle(Complete(ENTRY, None)),
    "renew": lambda side: side.group.renew(["1-1"]),
    "takeover": lambda side: side.group.takeover(1, claim=1, held=[], cursor="0-0"),
    "hand_back": lambda side: side.group.hand_back(claim=1),
    "reap": lambda side: side.group.reap(idle=1),
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
    journal = opened(JournalSettings.read(redis_url=url))
    group = Group(
        RAW,
        "distance",
        "one",
        reader=journal.scripts.line,
        scripts=journal.scripts,
        keeping=journal.keeping,
        deadline=JournalSettings().deadline,
    )
    with pytest.raises(JournalUnavailable) as caught:
        await CALLS[call](Side(journal, Upkeep(journal.scripts, journal.keeping), group))
    await redis.acl_deluser("nobody")
    assert str(caught.value).startswith("Redis")
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in repr(journal.redis)
    assert PASSWORD not in caplog.text
