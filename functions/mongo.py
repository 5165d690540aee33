"""How a stage uses MongoDB: opened when first needed, once per process, with answers soon or not at all."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from bson.errors import BSONError
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, PyMongoError, WriteError

from milepost.batch import Batch
from milepost.errors import ConfigurationError, Unavailable

Document = dict[str, Any]
Database = AsyncDatabase[Document]

ANSWER_WITHIN = 3.0
"""Seconds that one operation may last, its repeats included."""

_FIND_WITHIN = 1.5
"""Seconds to find and reach the server."""

AT_ONCE = 32
"""Operations for one event each that a process has under way at once. What is new shares its operations; after an
outage a whole window of events may be there already. It does no more of them in a second when there are more: they
only wait for each other, until operations time out, that which marks mails as sent among them.
"""

_URL = re.compile(r"mongodb(\+srv)?://([^\s@/?]+@)?[^\s@/?#]+(/[^\s@/?#]*)?(\?\S*)?")
"""A URL without an @ after its hosts. Otherwise `mongodb://ada:12/34@host` would be the host `ada`, port 12."""

_DUPLICATE_KEY = 11000

Made = TypeVar("Made")


def mongo_url(environ: Mapping[str, str]) -> str:
    """Read MONGO_URL. Raises ConfigurationError without the value, which may hold a password."""
    url = environ.get("MONGO_URL", "mongodb://127.0.0.1:27017/milepost")
    if _URL.fullmatch(url):
        with suppress(PyMongoError, ValueError):
            AsyncMongoClient[Document](url)  # reads the URL, and connects when it is used
            return url
    raise ConfigurationError(
        "MONGO_URL: must look like mongodb://[user:password@]host:port/database; "
        "in user and password, @ : / ? # % are written as %40 %3A %2F %3F %23 %25"
    )


def open_database(url: str) -> Database:
    """The database that the URL names, else `milepost`. Writes are on the disks of a majority when they return,
    and reads see them.
    """
    client: AsyncMongoClient[Document] = AsyncMongoClient(
        url,
        appname="milepost",
        tz_aware=True,
        timeoutMS=round(ANSWER_WITHIN * 1000),
        serverSelectionTimeoutMS=round(_FIND_WITHIN * 1000),
        connectTimeoutMS=round(_FIND_WITHIN * 1000),
    )
    return client.get_default_database("milepost").with_options(
        read_preference=ReadPreference.PRIMARY,
        write_concern=WriteConcern("majority", j=True),
    )


def once_per_loop(make: Callable[[], Made]) -> Callable[[], Made]:
    """Have `make` called when first needed, once per event loop: a client belongs to the loop it was used in."""
    made: WeakKeyDictionary[asyncio.AbstractEventLoop, Made] = WeakKeyDictionary()

    def get() -> Made:
        loop = asyncio.get_running_loop()
        if loop not in made:
            made[loop] = make()
        return made[loop]

    return get


turns = once_per_loop(lambda: asyncio.Semaphore(AT_ONCE))
"""`async with turns():` around what an event begins by itself; what ends it waits for no turn."""


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """Turn what MongoDB raises into Unavailable. No event can cause it: ours hold short strings, doubles and dates."""
    try:
        yield
    except PyMongoError as fault:
        raise Unavailable(f"MongoDB: {type(fault).__name__}", retry_after=1) from fault


class Inserts:
    """Documents inserted together where they come together. What is wrong with one of them, it alone is told."""

    def __init__(self, collection: AsyncCollection[Document]) -> None:
        self._collection = collection
        self._together: Batch[Document, bool | Exception] = Batch(self._insert)

    async def insert(self, document: Document) -> bool:
        """Whether its _id was free: then it is on the disks of a majority. Raises Unavailable when MongoDB refuses it
        for another reason, or says nothing and may have inserted it.
        """
        async with answering():
            outcome = await self._together.submit(document)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _insert(self, documents: Sequence[Document]) -> list[bool | Exception]:
        try:
            if len(documents) == 1:
                await self._collection.insert_one(documents[0])  # a fifth less work for the driver than insert_many
            else:
                await self._collection.insert_many(documents, ordered=False)
        except BulkWriteError as fault:
            if fault.details["writeConcernErrors"]:
                raise
            of = {error["index"]: error["code"] for error in fault.details["writeErrors"]}
            return [_outcome(of.get(index)) for index in range(len(documents))]
        except WriteError as fault:
            return [_outcome(fault.code)]
        except (BSONError, OverflowError) as fault:  # one of them cannot be written, and so none was sent
            if len(documents) == 1:
                return [fault]
            return [(await self._insert([document]))[0] for document in documents]
        return [True] * len(documents)


def _outcome(code: int | None) -> bool | Exception:
    if code is None or code == _DUPLICATE_KEY:
        return code is None
    return Unavailable(f"MongoDB: write error {code}", retry_after=1)
