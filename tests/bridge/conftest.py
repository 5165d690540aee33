"""`rig`: the run's Valkey, empty, and all that a test starts on it. A test that leaves a task or an error fails."""

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis_asyncio

from tests.bridge.rig import Rig
from tests.servers import WITHIN


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
