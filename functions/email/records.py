"""Keep a record of each mail in MongoDB, so that it is sent once."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pymongo
from pymongo.errors import AutoReconnect, PyMongoError

from functions.email.smtp_faults import LONGEST_RETRY_AFTER, resend_after
from functions.mongo import OPERATION_TIMEOUT, Database, Document, Inserts, mongo_errors, single_operation, submit
from milepost import Defer, Unavailable
from milepost.coalescer import Coalescer
from milepost.observe.logs import Fields

log = logging.getLogger("milepost.email")

_LONGEST_RETRY_AFTER = 5.0
"""Most seconds until the next try for a mail that another process is sending."""

_MOST_MARKS = 4096
"""Mails marked by one operation: more than are sent at once, so that a mark waits for one other operation at most."""

_USER_FIELDS = {"email": True, "distance_from_velocity": True}
"""The fields read of several users together: another field that cannot be decoded would fail all of them."""

_LONG_PAST = datetime(1970, 1, 1, tzinfo=UTC)

_NOBODY = ""
"""The holder of a record that waits for its time."""

_PAUSE = 0.5
"""Seconds between two tries to mark or free records while MongoDB is away."""


class MailRecords:
    """The collection `mails`: {_id: event id, state: sending | sent, until, holder, taken, email,
    distance_from_velocity, message, time, perhaps unanswered}.

    1. A process takes a record in one atomic step, which sets `holder` (its name) and `until` (now + `taken_for`) and
       counts `taken`.
    2. Only the holder sends the mail, until the time in `until`. `taken_for` is longer than sending and answering may
       take, so a record whose time is over was left by a process that died; another process may take it.
    3. A process knows the events that it is handling. Another record with its own name is left over from an attempt
       whose answer from MongoDB was lost, and the process takes it again at once.
    4. A process remembers the mails that it has sent and could not mark, and does not send them again. It marks them
       as soon as MongoDB answers, whichever process gets the redelivery.
    5. If the SMTP server got a message and did not reply, `put_off` counts that in `unanswered` and sets `until` to a
       time that is further off each time. From then on any process may take the record. This process keeps the time
       in memory too until it is written, so rule 3 does not send the mail before.

    Concurrent mails share three operations: find their users, insert their records, mark them as sent. Everything
    else is done for each mail by itself. Reading and taking raise Unavailable if MongoDB has not answered at `by`, in
    the loop's time.
    """

    def __init__(self, database: Database, taken_for: timedelta) -> None:
        self._mails = database["mails"]
        self._users = database["users"]
        self._taken_for = taken_for
        self._holder = uuid4().hex
        self._handled: set[str] = set()
        self._unmarked: dict[str, asyncio.Future[None]] = {}
        self._marking: asyncio.Task[None] | None = None
        self._releases: set[asyncio.Task[None]] = set()
        self._put_off: dict[str, datetime] = {}
        self._user_batch: Coalescer[str, Document | None] = Coalescer(self._find_users)
        self._inserts = Inserts(self._mails)

    async def warm_up(self) -> None:
        """Send MongoDB each operation of a mail, for an id that no event has. Raises Unavailable."""
        await submit(self._user_batch, "", None)
        await self._mark_all([""])
        async with single_operation(None):  # the driver retries it, as it does an insert
            await self._mails.update_one({"_id": ""}, {"$set": {"state": "sent"}})

    async def find(self, event_id: str, *, by: float) -> Document | None:
        """Return the record of this mail, or None."""
        async with single_operation(by):
            return await self._mails.find_one({"_id": event_id})

    async def user(self, event_id: str, address: str, *, by: float) -> Document | None:
        """Return the user with this event id and address, else the newest user with the address."""
        user = await submit(self._user_batch, event_id, by)
        if user is not None and user["email"] == address:
            return user
        async with single_operation(by):
            return await self._users.find_one({"email": address}, sort=[("created", -1), ("_id", -1)])

    async def _find_users(self, ids: Sequence[str]) -> list[Document | None]:
        async with mongo_errors():
            # With room for one more in the first reply, no second round trip asks whether there are others.
            cursor = self._users.find({"_id": {"$in": list(ids)}}, _USER_FIELDS, batch_size=len(ids) + 1)
            users = {user["_id"]: user for user in await cursor.to_list()}
        return [users.get(event_id) for event_id in ids]

    @contextlib.contextmanager
    def handling(self, event_id: str) -> Iterator[bool]:
        """Handle the event in the body. Yields False if another delivery of it is handled in this process already."""
        if event_id in self._handled:
            yield False
            return
        self._handled.add(event_id)
        try:
            yield True
        finally:
            self._handled.remove(event_id)

    async def take(self, mail: Document, *, by: float) -> Document:
        """Take the record of a mail that this process is `handling`. `mail` is a record that `find` returned, or a new
        one: {_id, email, distance_from_velocity, message}.

        Returns the record as it is now: taken by this process, or sent already, or another address's. Raises Defer
        if another process has taken it. The processes' clocks are compared; `taken_for` allows for their difference.
        """
        self.check_put_off(mail["_id"])
        if "state" in mail:
            return await self._take_again(mail, by)
        record = {**mail, "state": "sending", **self._taken_fields(datetime.now(UTC)), "taken": 1}
        return record if await self._inserts.insert(record, by=by) else await self._take_again(mail, by)

    async def _take_again(self, mail: Document, by: float) -> Document:
        now = datetime.now(UTC)
        is_ours = mail.get("holder") == self._holder
        # Two conditions and no $or: with that the embedded server would not find the record by its _id.
        is_free = {"holder": self._holder} if is_ours else {"until": {"$lte": now}}
        async with single_operation(by):
            # For find_one_and_update the embedded server would read the whole collection.
            taken = await self._mails.update_one(
                {"_id": mail["_id"], "email": mail["email"], "state": "sending", **is_free},
                {"$set": self._taken_fields(now), "$inc": {"taken": 1}},
            )
            record = await self._mails.find_one({"_id": mail["_id"]})
        if record is None:
            raise Defer(f"the record of the mail of {mail['_id']} was deleted", retry_after=1)
        if taken.matched_count and record["holder"] == self._holder:
            return record
        if record["state"] == "sent" or record["email"] != mail["email"]:
            return record
        if record["holder"] == self._holder and not is_ours:  # rule 3, and `mail` is a new record that did not say so
            return await self._take_again(record, by)
        raise _deferral(record, now)

    def check_free(self, record: Document) -> None:
        """Raise Defer if a record that `find` returned may not be taken now."""
        self.check_put_off(record["_id"])
        now = datetime.now(UTC)
        if record["holder"] != self._holder and record["until"] > now:
            raise _deferral(record, now)

    def check_put_off(self, event_id: str) -> None:
        """Raise Defer if this process has put the mail off, and could not write that yet."""
        now = datetime.now(UTC)
        until = self._put_off.get(event_id, now)
        if until > now:
            raise _deferral({"_id": event_id, "holder": _NOBODY, "until": until}, now)

    def _taken_fields(self, now: datetime) -> Document:
        return {"until": now + self._taken_for, "holder": self._holder, "time": now}

    async def free(self, record: Document, *, by: float) -> None:
        """Let the next attempt take the record at once. Returns at `by`, in the loop's time, at the latest; the writing
        goes on, and until it succeeds only this process takes the record.
        """
        await self._release(record, {"until": _LONG_PAST}, by)

    async def put_off(self, record: Document, *, by: float) -> float:
        """Free the record of a mail that may be out, and return the seconds until it may be taken. Returns as `free`
        does; this process does not take the record before the time either.
        """
        unanswered = int(record.get("unanswered", 0)) + 1
        wait = resend_after(unanswered)
        until = self._put_off[record["_id"]] = datetime.now(UTC) + timedelta(seconds=wait)
        await self._release(record, {"until": until, "holder": _NOBODY, "unanswered": unanswered}, by)
        return wait

    async def _release(self, record: Document, fields: Document, by: float) -> None:
        loop = asyncio.get_running_loop()
        release = loop.create_task(self._write_release(record, fields))
        self._releases.add(release)
        release.add_done_callback(self._releases.discard)
        await asyncio.wait([release], timeout=max(0.0, by - loop.time()))
        if not release.done():
            log.warning(Fields(outcome="not-freed", reason="TimeoutError"))

    async def _write_release(self, record: Document, fields: Document) -> None:
        """Try until MongoDB answers. Changes nothing if the record was taken again meanwhile."""
        ours = {"_id": record["_id"], "taken": record["taken"], "state": "sending"}
        failed = False
        while True:
            try:
                async with single_operation(None):
                    await self._mails.update_one(ours, {"$set": fields})
                break
            except Unavailable as fault:
                if not failed:
                    log.warning(Fields(outcome="not-freed", reason=str(fault)))
                failed = True
                await asyncio.sleep(_PAUSE)
        if self._put_off.get(record["_id"]) == fields["until"]:
            del self._put_off[record["_id"]]

    async def mark_sent(self, event_id: str, *, by: float) -> None:
        """Mark the mail as sent. Raises Unavailable at `by`, in the loop's time, if MongoDB has not answered by then;
        the marking goes on.
        """
        loop = asyncio.get_running_loop()
        marked = self._unmarked.setdefault(event_id, loop.create_future())
        if self._marking is None or self._marking.done():
            self._marking = loop.create_task(self._mark())
        await asyncio.wait([marked], timeout=max(0.0, by - loop.time()))
        if not marked.done():
            raise Unavailable("MongoDB: the mail was sent, and could not be marked so")

    def is_unmarked(self, event_id: str) -> bool:
        """Whether this process has sent the mail and could not mark it yet."""
        return event_id in self._unmarked

    async def _mark(self) -> None:
        """Mark all mails that were sent, until none is left. Those that come meanwhile are marked together."""
        failed = False
        while ids := list(self._unmarked)[:_MOST_MARKS]:
            fault = await self._mark_all(ids)
            if fault is None:
                for event_id in ids:
                    self._unmarked.pop(event_id).set_result(None)
            else:
                if not failed:
                    log.warning(Fields(outcome="not-marked", reason=type(fault).__name__))
                await asyncio.sleep(_PAUSE)
            failed = fault is not None

    async def close(self) -> None:
        """Try once more to mark and to free what could not be marked or freed."""
        if self._marking is not None:
            self._marking.cancel()
        if ids := list(self._unmarked)[:_MOST_MARKS]:
            await self._mark_all(ids)
        if releases := list(self._releases):
            await asyncio.wait(releases, timeout=OPERATION_TIMEOUT)
            for release in releases:
                release.cancel()

    async def _mark_all(self, ids: Sequence[str]) -> Exception | None:
        """Mark these mails as sent. Returns the error, if there is one, and logs one that no outage explains."""
        sent = {"$set": {"state": "sent", "time": datetime.now(UTC)}}
        try:
            with pymongo.timeout(OPERATION_TIMEOUT):
                try:
                    await self._mails.update_many({"_id": {"$in": list(ids)}}, sent)
                except AutoReconnect:  # the driver retries by itself only updates of one document
                    await self._mails.update_many({"_id": {"$in": list(ids)}}, sent)
        except PyMongoError as fault:
            return fault
        except Exception as fault:
            log.exception(Fields(outcome="not-marked"))
            return fault
        return None


def _deferral(record: Document, now: datetime) -> Defer:
    """Make the exception for a record that may not be taken before its time."""
    left = (record["until"] - now).total_seconds()
    if record["holder"] == _NOBODY:
        detail = f"the SMTP server did not answer the mail of {record['_id']}, which is sent again in {left:.0f} s"
        return Defer(detail, retry_after=min(left, LONGEST_RETRY_AFTER))
    return Defer(f"the mail of {record['_id']} is being sent", retry_after=min(left, _LONGEST_RETRY_AFTER))
