"""Connections to Redis: what is tried again, and what is not."""

from pathlib import Path

import pytest
import redis.asyncio as redis_asyncio
from redis.exceptions import TimeoutError as NoAnswer

from milepost.connection import connect
from milepost.settings import JournalSettings
from tests.servers import Valkey, eventually


async def connections(valkey: Valkey) -> int:
    """How many it has taken, this one included."""
    async with redis_asyncio.from_url(valkey.url) as client:
        return int((await client.info("stats"))["total_connections_received"])


async def answers(client: redis_asyncio.Redis) -> bool:
    try:
        return bool(await client.ping())
    except NoAnswer:
        return False


@pytest.mark.parametrize("opened", [True, False], ids=["a command", "a connection"])
async def test_what_a_hung_redis_does_not_answer_is_not_tried_again(tmp_path: Path, *, opened: bool) -> None:
    with Valkey(tmp_path) as valkey:
        async with connect(JournalSettings.read(redis_url=valkey.url), answer_within=0.1) as client:
            if opened:
                await eventually(lambda: answers(client))
            before = await connections(valkey)
            valkey.freeze()
            with pytest.raises(NoAnswer):
                await client.ping()
            valkey.thaw()
            looked = 1 if opened else 2  # this look, and what the ping opened if it had to
            assert await connections(valkey) == before + looked


async def test_a_connection_that_died_unnoticed_is_made_anew(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey:
        async with connect(JournalSettings.read(redis_url=valkey.url)) as client:
            await client.ping()
            valkey.kill()
            valkey.start()
            assert await client.ping()
