"""`rig`: the run's Valkey, empty, and all that a test starts on it. A test that leaves a task or an error fails.

`own`: the same on `valkey`, a Valkey of the test's own.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis_asyncio

from tests.bridge.rig import Rig
from tests.servers import WITHIN, Valkey


@pytest.fixture
async def rig(redis: redis_asyncio.Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[Rig]:
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
