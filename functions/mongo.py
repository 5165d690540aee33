"""Use MongoDB in a stage: its URL, one client for each event loop, limits on time and on concurrent operations."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import pymongo
from bson.errors import BSONError
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, PyMongoError, WriteError

from milepost.coalescer import Coalescer
from milepost.errors import ConfigurationError, Unavailable

Document = dict[str, Any]
Database = AsyncDatabase[Document]

OPERATION_TIMEOUT = 3.0
"""Seconds for one operation, the driver's retries included; for all those of one event that is handled by itself."""

_CONNECT_TIMEOUT = 1.5
"""Seconds to find and reach the server."""

MOST_SINGLE_OPERATIONS = 32
"""Limit on concurrent single-event operations. New events are batched and do not count. Without the limit, the
redeliveries after an outage would all queue in MongoDB and time out, and with them the marks of mails that were sent.
"""

_URL = re.compile(r"mongodb(\+srv)?://([^\s\x00-\x1f\x7f@/?#\[\]]+@)?[^\s@/?#]+(/[^\s@/?#]*)?(\?[^\s@#]*)?")
"""A URL without an @ after its hosts. Otherwise `mongodb://ada:12/34@host` would be the host `ada`, port 12. The driver
would take # [ ] in a password as they are, where other readers of the same URL see its end, or an address.
"""

_DUPLICATE_KEY = 11000

Item = TypeVar("Item")
Value = TypeVar("Value")


def mongo_url(environ: Mapping[str, str]) -> str:
    """Read MONGO_URL. Raises ConfigurationError without the value, which may hold a password."""
    url = environ.get("MONGO_URL", "mongodb://127.0.0.1:27017/milepost")
    if _URL.fullmatch(url):
        with suppress(PyMongoError, ValueError):
            AsyncMongoClient[Document](url)  # reads the URL, and connects when it is used
            return url
    raise ConfigurationError(
        "MONGO_URL: must look like mongodb://[user:password@]host:port/database; "
        "in user and password, @ : / ? # [ ] % are written as %40 %3A %2F %3F %23 %5B %5D %25"
    )


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Connect to the database that the URL names, else `milepost`. A write returns when a majority has it on disk.

    Raises Unavailable if MongoDB does not answer.
    """
    client: AsyncMongoClient[Document] = AsyncMongoClient(
        url,
        appname="milepost",
        tz_aware=True,
        timeoutMS=round(OPERATION_TIMEOUT * 1000),
        serverSelectionTimeoutMS=round(_CONNECT_TIMEOUT * 1000),
        connectTimeoutMS=round(_CONNECT_TIMEOUT * 1000),
    )
    try:
        database = client.get_default_database("milepost").with_options(
            read_preference=ReadPreference.PRIMARY,
            write_concern=WriteConcern("majority", j=True),
        )
        async with mongo_errors():
            await database.command("ping")
        yield database
    finally:
        with pymongo.timeout(_CONNECT_TIMEOUT):  # without it a silent server delays the process's stop by 10 s and more
            await client.close()


def once_per_loop(make: Callable[[], Value]) -> Callable[[], Value]:
    """Return a function that calls `make` once in each event loop, at first use: a client belongs to its loop."""
    values: WeakKeyDictionary[asyncio.AbstractEventLoop, Value] = WeakKeyDictionary()

    def get() -> Value:
        loop = asyncio.get_running_loop()
        if loop not in values:
            values[loop] = make()
        return values[loop]

    return get


_single_operations = once_per_loop(lambda: asyncio.Semaphore(MOST_SINGLE_OPERATIONS))


@asynccontextmanager
async def mongo_errors() -> AsyncIterator[None]:
    """Turn an error of MongoDB into Unavailable: our documents hold short strings, doubles and dates, so no event can
    cause one.
    """
    try:
        yield
    except PyMongoError as fault:
        raise Unavailable(f"MongoDB: {type(fault).__name__}", retry_after=1) from fault


@asynccontextmanager
async def _in_time(by: float | None) -> AsyncIterator[None]:
    """Wait in the body. Raises Unavailable at `by`, in the loop's time."""
    try:
        async with asyncio.timeout_at(by):
            yield
    except TimeoutError:
        raise Unavailable("the request's time was over before MongoDB answered", retry_after=1) from None


async def submit(batch: Coalescer[Item, Value], item: Item, by: float | None) -> Value:
    """Run `item` in the next batch. Raises Unavailable at `by`, in the loop's time; the batch goes on."""
    async with _in_time(by):
        return await batch.submit(item)


@asynccontextmanager
async def single_operation(by: float | None) -> AsyncIterator[None]:
    """Run operations for one event, within the limit. Raises Unavailable if MongoDB fails, or has not answered at `by`,
    in the loop's time. With None they only have their own time.
    """
    places, loop = _single_operations(), asyncio.get_running_loop()
    async with _in_time(by):
        await places.acquire()
    try:
        left = OPERATION_TIMEOUT if by is None else min(OPERATION_TIMEOUT, by - loop.time())
        async with mongo_errors():
            with pymongo.timeout(max(0.001, left)):  # 0 would be no limit
                yield
    finally:
        places.release()


class Inserts:
    """Inserts the documents of concurrent callers in one operation. Each caller gets the result of its own."""

    def __init__(self, collection: AsyncCollection[Document]) -> None:
        self._collection = collection
        self._batch: Coalescer[Document, bool | Exception] = Coalescer(self._insert_all)

    async def insert(self, document: Document, *, by: float | None) -> bool:
        """Insert a document. Returns False if its _id is taken.

        Raises Unavailable when MongoDB refuses it for another reason, or has not answered at `by`, in the loop's time,
        and may have inserted it.
        """
        async with mongo_errors():
            result = await submit(self._batch, document, by)
        if isinstance(result, Exception):
            raise result
        return result

    async def _insert_all(self, documents: Sequence[Document]) -> list[bool | Exception]:
        try:
            if len(documents) == 1:
                await self._collection.insert_one(documents[0])  # costs the driver a fifth less than insert_many
            else:
                await self._collection.insert_many(documents, ordered=False)
        except BulkWriteError as fault:
            if fault.details["writeConcernErrors"]:
                raise
            codes = {error["index"]: error["code"] for error in fault.details["writeErrors"]}
            return [_result(codes.get(index)) for index in range(len(documents))]
        except WriteError as fault:
            return [_result(fault.code)]
        except (BSONError, OverflowError) as fault:  # one of them cannot be encoded, so the driver sent none
            if len(documents) == 1:
                return [fault]
            return [(await self._insert_all([document]))[0] for document in documents]
        return [True] * len(documents)


def _result(code: int | None) -> bool | Exception:
    if code in {None, _DUPLICATE_KEY}:
        return code is None
    return Unavailable(f"MongoDB: write error {code}", retry_after=1)
