"""The record of each mail, which makes it go out once."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from functions.mongo import ANSWER_WITHIN, Database, Document, answering
from milepost import InHand, Unavailable
from milepost.log import Fields

log = logging.getLogger("milepost.email")

_ASK_AGAIN = 5.0
"""Seconds after which a mail in hand is asked for again, at most."""

_LONG_PAST = datetime(1970, 1, 1, tzinfo=UTC)


class Mails:
    """The collection `mails`: {_id: event id, state: sending | sent, until, holder, taken, email,
    distance_from_velocity, message, time}.

    Who has taken a record sends its mail, and no one else does until the time in `until`. That is `hold` after the
    taking, longer than sending and answering may last, so a record that expired was left by a process that died.
    A process knows what it has in hand itself: what else bears its name (`holder`) an attempt of its own left
    behind, its answer lost on the way from MongoDB, and it takes that again at once.
    """

    def __init__(self, database: Database, hold: timedelta) -> None:
        self._mails = database["mails"]
        self._users = database["users"]
        self._hold = hold
        self._holder = uuid4().hex
        self._in_hand: set[str] = set()

    async def find(self, event_id: str) -> Document | None:
        """The record of this mail, if it was ever taken."""
        async with answering():
            return await self._mails.find_one({"_id": event_id})

    async def user(self, event_id: str, address: str) -> Document | None:
        """The user of this event and address; else the newest of the address."""
        async with answering():
            user = await self._users.find_one({"_id": event_id})
            if user is None or user["email"] != address:
                user = await self._users.find_one({"email": address}, sort=[("created", -1), ("_id", -1)])
            return user

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
        now = datetime.now(UTC)
        # Two conditions and no $or: that would keep the embedded server from finding the record by its _id.
        ours = mail.get("holder") == self._holder
        free = {"holder": self._holder} if ours else {"until": {"$lte": now}}
        draft = {name: mail[name] for name in ("distance_from_velocity", "message")}
        async with answering():
            with contextlib.suppress(DuplicateKeyError):  # it was there and not free, or another's upsert came first
                taken = await self._mails.find_one_and_update(
                    {"_id": mail["_id"], "email": mail["email"], "state": "sending", **free},
                    {
                        "$setOnInsert": draft,
                        "$set": {"until": now + self._hold, "holder": self._holder, "time": now},
                        "$inc": {"taken": 1},
                    },
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
                if taken is not None:
                    return taken
            record = await self._mails.find_one({"_id": mail["_id"]})
        if record is not None and (record["state"] == "sent" or record["email"] != mail["email"]):
            return record
        if record is not None and record["holder"] == self._holder and not ours:
            return await self.take(record)
        left = (record["until"] - now).total_seconds() if record is not None else 0
        raise InHand(f"the mail of {mail['_id']} is being sent", retry_after=min(left, _ASK_AGAIN))

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
        while True:
            try:
                await self._mails.update_one(
                    {"_id": record["_id"]}, {"$set": {"state": "sent", "time": datetime.now(UTC)}}
                )
            except PyMongoError as fault:
                log.warning(Fields(outcome="not-marked", reason=type(fault).__name__))
                if loop.time() + pause + ANSWER_WITHIN > deadline:
                    raise Unavailable("MongoDB: the mail was sent, and could not be marked so") from fault
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)
