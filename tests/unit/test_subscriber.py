"""The bridge's subscription while Redis is away."""

import asyncio

import pytest

from milepost.bridge.ingest import subscriber
from milepost.bridge.ingest.subscriber import Subscriber
from milepost.bridge.metrics import BridgeMetrics
from milepost.journal import Maintenance, Scripts
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.servers import HOST, eventually


async def test_outage_is_logged_once_however_often_it_tries(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subscriber, "TRY_AGAIN_AFTER", 0.001)
    tries: list[None] = []

    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tries.append(None)
        writer.write(b"-ERR max number of clients reached\r\n")
        await writer.drain()
        writer.close()

    async def beat() -> None: ...

    async with await asyncio.start_server(refuse, HOST, 0) as server:
        host, port = server.sockets[0].getsockname()
        settings = JournalSettings.read(redis_url=f"redis://{host}:{port}")
        redis = connect(settings, retries=0)
        maintenance = Maintenance(Scripts(redis), dedup=settings.dedup, limit=settings.backlog_limit)
        waiting = Subscriber(redis, ["in"], maintenance, BridgeMetrics(), lease=10, beat=beat)
        pending = {asyncio.create_task(part) for part in waiting.coroutines()}
        await eventually(lambda: len(tries) > 20)
        while pending:
            for task in pending:
                task.cancel()  # and again: before Python 3.12 redis-py can swallow it
            _, pending = await asyncio.wait(pending, timeout=0.1)
        await redis.aclose()
    reasons = [record.msg["reason"] for record in caplog.records if record.msg["outcome"] == "unsubscribed"]
    assert len(reasons) < 5
