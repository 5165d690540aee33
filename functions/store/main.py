"""The stage `store`: keep each computed distance in MongoDB.

It consumes `calculated_distance` (email, distance_from_velocity) and emits `user:email` (the address alone).
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from pymongo.errors import DuplicateKeyError

from functions.mongo import Database, Document, Inserts, mongo_url, open_database, single_operation
from functions.payloads import CalculatedDistance, Recipient
from milepost import Event, Reject, Unavailable, stage
from milepost.function.environment import request_timeout
from milepost.function.stage import arrival
from milepost.observe.logs import Fields

log = logging.getLogger("milepost.store")


class Users:
    """The collection `users`: {_id: event id, email, distance_from_velocity: miles, created}.

    Concurrent events share one insert. An event whose id is taken, by an earlier delivery or in the same batch, is
    looked up by itself.
    """

    def __init__(self, database: Database) -> None:
        self._users = database["users"]
        self._inserts = Inserts(self._users)
        self._indexed = False

    async def keep(self, user: Document, *, by: float) -> Document:
        """Insert `user` unless there is one with its _id. Returns the one that is kept, on the disks of a majority.

        Raises Unavailable if MongoDB has not answered at `by`, in the loop's time.
        """
        kept = user if await self._inserts.insert(user, by=by) else await self._existing(user, by)
        await self.index(by=by)
        return kept

    async def _existing(self, user: Document, by: float) -> Document:
        """An upsert that changes nothing waits until a majority has the user on disk; a plain read would not."""
        async with single_operation(by):
            # An upsert that loses a race against another one finds its document at the second try.
            kept = await self._upsert(user) or await self._upsert(user)
        if kept is None:
            raise Unavailable(f"the record of {user['_id']} came and went")
        return kept

    async def _upsert(self, user: Document) -> Document | None:
        fields = {name: value for name, value in user.items() if name != "_id"}
        with contextlib.suppress(DuplicateKeyError):
            # For find_one_and_update the embedded server would read the whole collection.
            await self._users.update_one({"_id": user["_id"]}, {"$setOnInsert": fields}, upsert=True)
            return await self._users.find_one({"_id": user["_id"]})
        return None

    async def warm_up(self) -> None:
        """Send MongoDB a write as for a user, with an id that no event has. Raises Unavailable."""
        async with single_operation(None):
            await self._users.update_one({"_id": ""}, {"$set": {"created": None}})

    async def index(self, *, by: float | None) -> None:
        """Index the fields that the stage `email` searches, once. Without the index it works more slowly."""
        if self._indexed:
            return
        self._indexed = True
        try:
            async with single_operation(by):
                await self._users.create_index([("email", 1), ("created", 1)])
        except Unavailable as fault:
            self._indexed = False
            log.warning(Fields(outcome="no-index", reason=str(fault)))


MONGO_URL = mongo_url(os.environ)
REQUEST_TIMEOUT = request_timeout(os.environ)


class State:
    """The users, while the stage is served."""

    users: Users


state = State()


@contextlib.asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    """Open the database, and close it when the server stops."""
    async with open_database(MONGO_URL) as database:
        state.users = Users(database)
        await state.users.index(by=None)
        await state.users.warm_up()
        yield


async def store(distance: CalculatedDistance, event: Event) -> Recipient:
    """Keep the distance under the event's id, and emit its address. The same event again changes nothing."""
    contents = distance.model_dump()
    user = {"_id": event.id, **contents, "created": event.timestamp or datetime.now(UTC)}
    came = arrival.get(asyncio.get_running_loop().time())
    kept = await state.users.keep(user, by=came + REQUEST_TIMEOUT * 9 / 10)
    if any(kept.get(name) != value for name, value in contents.items()):
        raise Reject(f"id {event.id} is kept already, with other contents")
    return Recipient(distance.email)


main = stage(store, lifespan=lifespan)
