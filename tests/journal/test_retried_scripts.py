"""Every script may run twice: its first answer is lost on the way, and the client's one retry sends it again."""

from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from milepost import keys
from milepost.connection import connect
from milepost.errors import JournalUnavailable
from milepost.journal import Bury, Complete, Entry, Foreign, Group, Journal, Park, Upkeep, Wiring
from milepost.line import Line
from milepost.settings import JournalSettings
from tests.journal.conftest import Groups
from tests.journal.events import (
    CALCULATED,
    RAW,
    READY,
    heard,
    letter,
    made,
    pending,
    reply_to,
    submission,
)
from tests.journal.proxy import Proxy, proxied

SCRIPT = b"EVALSHA"


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with proxied(redis_url) as proxy:
        yield proxy


@pytest.fixture
def lossy(proxy: Proxy, opened: Callable[[JournalSettings], Journal]) -> Journal:
    """A journal behind the proxy."""
    return opened(JournalSettings.read(redis_url=proxy.url))


@pytest.fixture
def lossy_group(proxy: Proxy, lossy: Journal, settings: JournalSettings) -> Group:
    return Group(
        RAW,
        "distance",
        "consumer",
        reader=lossy.scripts.line,
        scripts=lossy.scripts,
        keeping=lossy.keeping,
        deadline=settings.deadline,
    )


async def taken(journal: Journal, group: Group) -> Entry:
    await group.ensure()
    await journal.publish(submission("one"))
    (entry,) = await group.read(1, block=READY) or []
    return entry


async def test_an_event_is_published_once(lossy: Journal, proxy: Proxy, redis: Redis) -> None:
    await lossy.publish(submission())
    async with heard(redis, RAW) as messages:
        proxy.lose(SCRIPT)
        await lossy.publish(submission())
    assert proxy.lost == 1
    assert len(messages) == 1
    assert await redis.xlen(keys.journal(RAW)) == 2


async def test_a_hop_publishes_its_reply_once(journal: Journal, lossy_group: Group, proxy: Proxy, redis: Redis) -> None:
    entry = await taken(journal, lossy_group)
    await lossy_group.settle(Complete(entry, None))
    entry = (await another(journal, lossy_group))[0]
    async with heard(redis, CALCULATED) as messages:
        proxy.lose(SCRIPT)
        assert await lossy_group.settle(Complete(entry, reply_to(submission("two")))) == "stale"
    assert proxy.lost == 1
    assert len(messages) == await redis.xlen(keys.journal(CALCULATED)) == 1
    assert await pending(redis, lossy_group) == 0


async def another(journal: Journal, group: Group) -> list[Entry]:
    await journal.publish(submission())
    return await group.read(1, block=READY) or []


async def test_an_event_is_parked_and_buried_once(
    journal: Journal, lossy_group: Group, proxy: Proxy, redis: Redis
) -> None:
    entry = await taken(journal, lossy_group)
    proxy.lose(SCRIPT)
    await lossy_group.settle(Park(entry, letter(submission("one")), 60))
    (entry,) = await another(journal, lossy_group)
    proxy.lose(SCRIPT)
    await lossy_group.settle(Bury(entry, letter(submission("one"))))
    assert proxy.lost == 2
    assert await redis.zcard(keys.waiting("distance")) == await redis.xlen(keys.dead("distance")) == 1


async def test_a_parked_event_is_woken_and_a_dead_one_replayed_once(
    journal: Journal, lossy: Journal, groups: Groups, proxy: Proxy, redis: Redis
) -> None:
    distance = groups("distance")
    await Upkeep(journal.scripts, journal.keeping).beat({"distance": Wiring([RAW], [], "")})
    entry = await taken(journal, distance)
    await distance.settle(Park(entry, letter(submission("one")), 0))
    proxy.lose(SCRIPT)
    await Upkeep(lossy.scripts, lossy.keeping).wake(["distance"], most=9)
    (entry,) = await distance.read(9, block=READY) or []
    await distance.settle(Bury(entry, letter(submission("one"))))
    (dead,) = await journal.dead_letters("distance")
    proxy.lose(SCRIPT)
    await lossy.replay("distance", [dead.entry])
    assert proxy.lost == 2
    assert len(await distance.read(9, block=READY) or []) == 1


async def test_a_foreign_event_is_adopted_once_and_the_lease_kept(lossy: Journal, proxy: Proxy, redis: Redis) -> None:
    upkeep = Upkeep(lossy.scripts, lossy.keeping)
    proxy.lose(SCRIPT)
    assert await upkeep.lease("token", ttl=10, tell=False) == "token"
    proxy.lose(SCRIPT)
    assert await upkeep.adopt([Foreign(submission(channel="user:email"), "token")]) in (["seen"], ["done"])
    assert await redis.xlen(keys.journal("user:email")) == 1


async def test_what_a_lost_read_carried_comes_back_by_reread_and_is_read_only_once(
    journal: Journal, groups: Groups, proxy: Proxy, redis: Redis, settings: JournalSettings
) -> None:
    reader = Line(connect(JournalSettings.read(redis_url=proxy.url)), again=False)
    distance = Group(
        RAW,
        "distance",
        "consumer",
        reader=reader,
        scripts=journal.scripts,
        keeping=journal.keeping,
        deadline=settings.deadline,
    )
    await made(distance)
    event = submission()
    await journal.publish(event)
    proxy.lose(b"XREADGROUP")
    with pytest.raises(JournalUnavailable):
        await distance.read(9, block=READY)
    (entry,) = await distance.reread() or []
    assert entry.event == event.to_json().encode()
    assert await distance.read(9, block=0.01) == []
    await reader.close()


async def test_scripts_that_the_server_forgot_are_sent_again(
    journal: Journal, upkeep: Upkeep, groups: Groups, redis: Redis
) -> None:
    distance = groups("distance")
    entry = await taken(journal, distance)
    await redis.script_flush()
    assert await journal.publish(submission()) is True
    await redis.script_flush()
    assert await distance.settle(Complete(entry, reply_to(submission("one")))) == "done"
    await redis.script_flush()
    assert await upkeep.trim(RAW) == ("trimmed", 1)
    await redis.script_flush()
    assert await upkeep.wake(["distance"], most=1) == (0, None)
