"""`rig`: the run's Valkey, empty, and all that a test starts on it. A test fails if it leaves a task or an error, or if
the bridge logs an exception that the test does not expect.

`own`: the same on `valkey`, a Valkey of the test's own.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis_asyncio

from milepost.bridge import bridge as bridge_module
from milepost.journal.maintenance import Maintenance
from milepost.journal.models import Wiring
from tests.bridge.rig import Rig
from tests.servers import WITHIN, Valkey, eventually


class _Exceptions(logging.Handler):
    """Keeps the log records that have an exception."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.records.append(record)


@pytest.fixture
def logged_exceptions() -> Iterator[list[logging.LogRecord]]:
    """The records of exceptions that Milepost logs meanwhile."""
    handler = _Exceptions()
    log = logging.getLogger("milepost")
    log.addHandler(handler)
    yield handler.records
    log.removeHandler(handler)


@asynccontextmanager
async def checked_rig(
    url: str, redis: redis_asyncio.Redis, folder: Path, logged_exceptions: list[logging.LogRecord]
) -> AsyncIterator[Rig]:
    """A rig on the Redis at `url`, checked at its end as the top of this file says."""
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    before = asyncio.all_tasks()
    rig = Rig(url, redis, folder)
    yield rig
    async with asyncio.timeout(WITHIN):
        await rig.close()
    gc.collect()
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left
    assert not unhandled
    assert not rig.faults
    assert bool(logged_exceptions) == rig.expects_logged_exceptions, [
        record.getMessage() for record in logged_exceptions
    ]


@pytest.fixture
async def rig(
    redis: redis_asyncio.Redis, redis_url: str, tmp_path: Path, logged_exceptions: list[logging.LogRecord]
) -> AsyncIterator[Rig]:
    async with checked_rig(redis_url, redis, tmp_path, logged_exceptions) as rig:
        yield rig


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as server:
        yield server


@pytest.fixture
async def own(valkey: Valkey, tmp_path: Path, logged_exceptions: list[logging.LogRecord]) -> AsyncIterator[Rig]:
    """A rig on a Valkey of the test's own."""
    async with (
        redis_asyncio.from_url(valkey.url) as client,
        checked_rig(valkey.url, client, tmp_path, logged_exceptions) as rig,
    ):
        yield rig


@pytest.fixture
def ten_beats(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """Waits until bridges have written ten more beats. A bridge writes one every 0.05 s, if its Redis answers."""
    monkeypatch.setattr(bridge_module, "BEAT", 0.05)
    beat, written = Maintenance.beat, 0

    async def counted(maintenance: Maintenance, routes: Mapping[str, Wiring]) -> bool:
        nonlocal written
        result = await beat(maintenance, routes)
        written += 1
        return result

    async def wait() -> None:
        end = written + 10
        await eventually(lambda: written >= end)

    monkeypatch.setattr(Maintenance, "beat", counted)
    return wait
