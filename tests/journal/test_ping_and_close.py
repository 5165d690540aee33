"""A journal's ping looks at new connections and at the present one, and its end closes all."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from milepost.errors import JournalUnavailable
from milepost.journal import Journal
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.proxy import Proxy
from tests.servers import HOST, Valkey, eventually


async def test_ping_fails_while_new_connections_lead_to_a_replica(tmp_path: Path) -> None:
    with Valkey(tmp_path) as one, Valkey(tmp_path) as other:
        async with Proxy(one.url) as proxy, Redis.from_url(other.url) as admin:
            settings = JournalSettings.read(redis_url=proxy.url)
            journal = Journal(connect(settings), settings)
            await journal.check_writable()
            await admin.replicaof(HOST, "1")
            proxy.target = other.port
            for check in (journal.ping, journal.check_writable):
                await eventually(lambda check=check: refuses(check))
            await journal.scripts.call("SET", "key", "the present connection leads to the primary")
            await journal.close()


async def refuses(check: Callable[[], Awaitable[None]]) -> bool:
    try:
        await check()
    except JournalUnavailable as fault:
        return "read-only replica" in str(fault)
    return False


async def test_closed_journal_has_no_connection(redis: Redis, settings: JournalSettings) -> None:
    settings = settings.model_copy(update={"replicas": 1})
    journal = Journal(connect(settings), settings)

    async def connections() -> set[str]:
        return {client["id"] for client in await redis.client_list() if client["name"] == "milepost"}

    before = await connections()
    await journal.scripts.call("PING")
    await journal.doors.connection.call("PING")
    await journal.redis.ping()
    opened = await connections() - before
    assert len(opened) >= 3
    await journal.close()

    async def closed() -> bool:
        return not opened & await connections()

    await eventually(closed)
    with pytest.raises(JournalUnavailable):
        await journal.scripts.call("PING")
