"""Run many concurrent events in one process, and count the commands that MongoDB gets."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymongo import AsyncMongoClient, WriteConcern
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from functions import mongo
from functions.mongo import Database
from tests.proxy import Proxy

DATA = frozenset({"find", "insert", "update", "findAndModify", "getMore", "delete", "aggregate"})


class Commands(CommandListener):
    """`counts`: how many commands of a name there were on a collection, since it was last cleared. An update of several
    documents is an `updateMany`.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def started(self, event: CommandStartedEvent) -> None:
        name = event.command_name
        if name in DATA:
            is_many = name == "update" and event.command["updates"][0].get("multi")
            self.counts["updateMany" if is_many else name, event.command[name]] += 1

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


@asynccontextmanager
async def watched(url: str, *, within: float = 3.0) -> AsyncIterator[tuple[Database, Commands]]:
    """A database as the stages open theirs, and the commands it is sent. An operation may take `within` seconds."""
    commands = Commands()
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        url, event_listeners=[commands], tz_aware=True, timeoutMS=within * 1000, serverSelectionTimeoutMS=within * 500
    )
    patch = pytest.MonkeyPatch()
    try:
        patch.setattr(mongo, "OPERATION_TIMEOUT", within)
        yield client.get_default_database().with_options(write_concern=WriteConcern("majority", j=True)), commands
    finally:
        patch.undo()
        await client.close()


@asynccontextmanager
async def proxied(mongo_url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before MongoDB, and the URL through it."""
    async with Proxy(mongo_url) as proxy:
        yield proxy, f"{proxy.url}?directConnection=true"


async def each(calls: Iterable[Awaitable[object]]) -> list[Any]:
    """Start all calls before one goes on. Returns their results or exceptions."""
    return await asyncio.gather(*calls, return_exceptions=True)
