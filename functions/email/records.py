"""The record of each mail, which makes it go out once."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pymongo
from pymongo import ReturnDocument
from pymongo.errors import AutoReconnect, PyMongoError

from functions.mongo import ANSWER_WITHIN, Database, Document, Inserts, answering, turns
from milepost import InHand, Unavailable
from milepost.batch import Batch
from milepost.log import Fields

log = logging.getLogger("milepost.email")

_ASK_AGAIN = 5.0
"""Seconds after which a mail in hand is asked for again, at most."""

_MOST_MARKS = 4096
"""Mails marked by one operation: more than are in hand, so that a mark waits for one other operation at most."""

_OF_USERS = {"email": True, "distance_from_velocity": True}
"""What is read of users together, so that nothing else in one of them can be a fault of all."""

_LONG_PAST = datetime(1970, 1, 1, tzinfo=UTC)


class Mails:
    """The collection `mails`: {_id: event id, state: sending | sent, until, holder, taken, email,
    distance_from_velocity, message, time}.

    Who has taken a record sends its mail, and no one else does until the time in `until`. That is `hold` after the
    taking, longer than sending and answering may last, so a record that expired was left by a process that died.
    A process knows what it has in hand itself: what else bears its name (`holder`) an attempt of its own left
    behind, its answer lost on the way from MongoDB, and it takes that again at once.

    Mails that come together share three operations: one finds their users, one makes their records, one marks them.
    What is none of these is done for each mail by itself.
    """

    def __init__(self, database: Database, hold: timedelta) -> None:
        self._mails = database["mails"]
        self._users = database["users"]
        self._hold = hold
        self._holder = uuid4().hex
        self._in_hand: set[str] = set()
        self._found: Batch[str, Document | None] = Batch(self._find_users)
        self._new = Inserts(self._mails)
        self._marks: Batch[str, PyMongoError | None] = Batch(self._mark, most_items=_MOST_MARKS)

    async def find(self, event_id: str) -> Document | None:
        """The record of this mail, if it was ever taken."""
        async with turns(), answering():
            return await self._mails.find_one({"_id": event_id})

    async def user(self, event_id: str, address: str) -> Document | None:
        """The user of this event and address; else the newest of the address."""
        user = await self._found.submit(event_id)
        if user is not None and user["email"] == address:
            return user
        async with turns(), answering():
            return await self._users.find_one({"email": address}, sort=[("created", -1), ("_id", -1)])

    async def _find_users(self, ids: Sequence[str]) -> list[Document | None]:
        async with answering():
            # Room for one more says that these are all: no second round trip for the rest.
            cursor = self._users.find({"_id": {"$in": list(ids)}}, _OF_USERS, batch_size=len(ids) + 1)
            users = {user["_id"]: user for user in await cursor.to_list()}
        return [users.get(one) for one in ids]

    @contextlib.contextmanager
    def in_hand(self, event_id: str) -> Iterator[bool]:
        """Hold the event for the length of the body. False if this process holds it for another delivery already."""
        if event_id in self._in_hand:
            yield False
            return
        self._in_hand.add(event_id)
        try:
            yield True
        finally:
            self._in_hand.remove(event_id)

    async def take(self, mail: Document) -> Document:
        """Take the record, in one atomic step that counts `taken`; the event is in hand. `mail` is what `find`
        returned, or what a record is to be made of: {_id, email, distance_from_velocity, message}. Returns the record
        as it stands: taken by us, or of a mail sent already, or another address's. Raises InHand if someone else
        holds it.

        The clocks compared are those of the processes: `hold` has room for what they differ by.
        """
        if "state" in mail:
            return await self._take_again(mail)
        record = {**mail, "state": "sending", **self._taking(datetime.now(UTC)), "taken": 1}
        return record if await self._new.insert(record) else await self._take_again(mail)

    async def _take_again(self, mail: Document) -> Document:
        now = datetime.now(UTC)
        # Two conditions and no $or: that would keep the embedded server from finding the record by its _id.
        ours = mail.get("holder") == self._holder
        free = {"holder": self._holder} if ours else {"until": {"$lte": now}}
        async with turns(), answering():
            taken = await self._mails.find_one_and_update(
                {"_id": mail["_id"], "email": mail["email"], "state": "sending", **free},
                {"$set": self._taking(now), "$inc": {"taken": 1}},
                return_document=ReturnDocument.AFTER,
            )
            if taken is not None:
                return taken
            record = await self._mails.find_one({"_id": mail["_id"]})
        if record is not None and (record["state"] == "sent" or record["email"] != mail["email"]):
            return record
        if record is not None and record["holder"] == self._holder and not ours:
            return await self._take_again(record)
        left = (record["until"] - now).total_seconds() if record is not None else 0
        raise InHand(f"the mail of {mail['_id']} is being sent", retry_after=min(left, _ASK_AGAIN))

    def _taking(self, now: datetime) -> Document:
        return {"until": now + self._hold, "holder": self._holder, "time": now}

    async def release(self, record: Document) -> None:
        """Let the next attempt take the record at once. If MongoDB is away, it waits for `until` instead."""
        try:
            await self._mails.update_one(
                {"_id": record["_id"], "taken": record["taken"], "state": "sending"}, {"$set": {"until": _LONG_PAST}}
            )
        except PyMongoError as fault:
            log.warning(Fields(outcome="not-released", reason=type(fault).__name__))

    async def mark_sent(self, record: Document, deadline: float) -> None:
        """Mark the mail as sent, and try until `deadline` (the loop's clock) if MongoDB is away. Raises Unavailable."""
        loop = asyncio.get_running_loop()
        pause = 0.1
        while (fault := await self._marks.submit(record["_id"])) is not None:
            log.warning(Fields(outcome="not-marked", reason=type(fault).__name__))
            if loop.time() + pause + 2 * ANSWER_WITHIN > deadline:  # a mark may wait for another's, too
                raise Unavailable("MongoDB: the mail was sent, and could not be marked so") from fault
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    async def _mark(self, ids: Sequence[str]) -> list[PyMongoError | None]:
        """A fault is returned and not raised: who waits behind these mails has a try of its own."""
        sent = {"$set": {"state": "sent", "time": datetime.now(UTC)}}
        fault = None
        try:
            with pymongo.timeout(ANSWER_WITHIN):
                try:
                    await self._mails.update_many({"_id": {"$in": list(ids)}}, sent)
                except AutoReconnect:  # the driver repeats by itself only what changes one document
                    await self._mails.update_many({"_id": {"$in": list(ids)}}, sent)
        except PyMongoError as failed:
            fault = failed
        return [fault] * len(ids)
