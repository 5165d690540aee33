"""Servers that every test may use. Each is started once for the run, when the first test asks for it.

redis_url    the server's URL; `redis`: a client on it, all data gone before the test begins
mongo_url    a URL with a database that no other test uses; `mongo`: that database, opened
"""

import gc
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis.asyncio as redis_asyncio
from hypothesis import HealthCheck, settings
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from redis import utils as redis_utils

from tests.servers import Mongo, Valkey

# redis-py reads the metadata of its package for each connection.
redis_utils.get_lib_version = cache(redis_utils.get_lib_version)

# The same examples in each run, so that a change is judged by its own faults. The weekly job tries others:
# make test ARGS=--hypothesis-profile=random
slow_machine = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("milepost", slow_machine, derandomize=True)
settings.register_profile("random", slow_machine, derandomize=False)
settings.load_profile("milepost")


def pytest_collection_finish() -> None:
    """Freeze the collected tests. Otherwise each of the hundreds of collections that tests ask for takes 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """The run's Valkey. A test that stops, freezes or fills one starts its own: `with Valkey(tmp_path) as valkey`."""
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def mongo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    """The run's Mongo server. A test that stops or freezes one starts its own: `with Mongo(tmp_path) as mongo`."""
    with Mongo(tmp_path_factory.mktemp("mongo")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(valkey_server: Valkey) -> str:
    return valkey_server.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[redis_asyncio.Redis]:
    """A client (bytes) on an empty server."""
    client = redis_asyncio.from_url(redis_url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def mongo_url(mongo_server: Mongo) -> str:
    return f"{mongo_server.url}/test-{uuid4().hex}"


@pytest.fixture
async def mongo(mongo_url: str) -> AsyncIterator[AsyncDatabase[dict[str, Any]]]:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongo_url, tz_aware=True)
    database = client.get_default_database()
    yield database
    await client.drop_database(database)
    await client.close()


@pytest.fixture
def project() -> Path:
    return Path(__file__).resolve().parent.parent
