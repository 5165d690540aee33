"""`rig`: the run's Valkey, empty, and all that a test starts on it. A test that leaves a task or an error fails, and so
does one that brings the bridge to log an exception with its traceback.

`own`: the same on `valkey`, a Valkey of the test's own.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis_asyncio

from tests.bridge.rig import Rig
from tests.servers import WITHIN, Valkey


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


@pytest.fixture
async def rig(
    redis: redis_asyncio.Redis, redis_url: str, tmp_path: Path, logged_exceptions: list[logging.LogRecord]
) -> AsyncIterator[Rig]:
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    before = asyncio.all_tasks()
    rig = Rig(redis_url, redis, tmp_path)
    yield rig
    async with asyncio.timeout(WITHIN):
        await rig.close()
    gc.collect()
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left
    assert not unhandled
    assert not rig.faults
    assert bool(logged_exceptions) == rig.plants_exceptions, [record.getMessage() for record in logged_exceptions]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as server:
        yield server


@pytest.fixture
async def own(valkey: Valkey, tmp_path: Path) -> AsyncIterator[Rig]:
    """A rig on a Valkey of the test's own."""
    async with redis_asyncio.from_url(valkey.url) as client:
        rig = Rig(valkey.url, client, tmp_path)
        yield rig
        async with asyncio.timeout(WITHIN):
            await rig.close()
        assert not rig.faults
