"""The stage `email`: mail people their distance, once for each submission.

It consumes `user:email` (the address alone) and emits `email:sent` (email, distance_from_velocity, message).

1. Find the distance: of the event's id, else the newest of the address.
2. Wait for a free connection to the SMTP server, if there is one. If all are in use, look for the record first.
3. Take the record of this mail in the collection `mails` (records.py). Only the process that took it may send.
4. Send the mail (mailer.py), then mark the record as sent. A redelivery finds the mark and sends nothing.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from functions.email.mail import Mail, TimeLimits, Unanswered
from functions.email.mailer import Mailer
from functions.email.records import MailRecords
from functions.email.smtp_faults import error_for_silence
from functions.mongo import Document, mongo_url, open_database
from functions.payloads import EmailSent, Recipient
from milepost import Defer, Event, Reject, stage
from milepost.function.environment import request_timeout
from milepost.function.stage import arrival

MONGO_URL = mongo_url(os.environ)
MAILER = Mailer.read(os.environ)
REQUEST_TIMEOUT = request_timeout(os.environ)
TAKEN_FOR = timedelta(seconds=REQUEST_TIMEOUT + 10)
"""How long a record stays taken. Sending ends within REQUEST_TIMEOUT, and 10 s allow for clocks that differ."""


class State:
    """The records, while the stage is served."""

    records: MailRecords


state = State()


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    """Open the database, and close it when the server stops."""
    async with open_database(MONGO_URL) as database:
        state.records = MailRecords(database, TAKEN_FOR)
        await state.records.warm_up()
        yield
        await state.records.close()


async def email(recipient: Recipient, event: Event) -> EmailSent:
    """Mail the distance that is kept under the event's id, else the newest of its address."""
    limits = TimeLimits.of_request(arrival.get(asyncio.get_running_loop().time()), REQUEST_TIMEOUT)
    # Nearly every event is new, so the user is looked up first; `take` finds a record that exists.
    record = await _draft(event.id, recipient.root, limits) or await state.records.find(event.id, by=limits.mark)
    if record is None:
        raise Reject(f"no distance is kept for {recipient.root}")
    if _is_unsent(record, recipient.root):
        with state.records.handling(event.id) as is_alone:
            if not is_alone:
                record = await state.records.find(event.id, by=limits.mark) or record
                if _is_unsent(record, recipient.root):
                    raise Defer(f"the mail of {event.id} is being sent", retry_after=1)
            elif state.records.is_unmarked(event.id):
                await state.records.mark_sent(event.id, by=limits.mark)
                record = await state.records.find(event.id, by=limits.mark) or record
            else:
                record = await _take_and_send(record, limits)
    if record["email"] != recipient.root:
        raise Reject(f"id {event.id} is that of another address's mail")
    return EmailSent(
        email=record["email"],
        distance_from_velocity=record["distance_from_velocity"],
        message=record["message"],
    )


async def _draft(event_id: str, address: str, limits: TimeLimits) -> Document | None:
    """Make a new record, or return None if no distance is kept for the address."""
    user = await state.records.user(event_id, address, by=limits.mark)
    if user is None:
        return None
    miles = user["distance_from_velocity"]
    return {
        "_id": event_id,
        "email": address,
        "distance_from_velocity": miles,
        "message": f"You are {miles} miles from Velocity.",
    }


def _is_unsent(record: Document, address: str) -> bool:
    return record.get("state") != "sent" and record["email"] == address


async def _take_and_send(mail: Document, limits: TimeLimits) -> Document:
    """Return the record of the mail, which is sent now, or of another address's.

    The mail waits for a connection first, since it must neither keep its record from other processes meanwhile nor
    count the wait as an attempt. A mail that is sent already, or may not be sent now, does not wait.
    """
    if MAILER.is_busy and (found := await state.records.find(mail["_id"], by=limits.mark)):
        if not _is_unsent(found, mail["email"]):
            return found
        state.records.check_free(found)
        mail = found
    async with MAILER.connection(limits):
        record = await state.records.take(mail, by=limits.mark)
        if not _is_unsent(record, mail["email"]):
            return record
        await _send(record, limits)
    await state.records.mark_sent(record["_id"], by=limits.mark)
    return record


async def _send(record: Document, limits: TimeLimits) -> None:
    mail = Mail(record["_id"], record["email"], record["message"], attempt=record["taken"])
    try:
        await MAILER.send(mail, limits)
    except Unanswered as fault:
        wait = await state.records.put_off(record, by=limits.mark)
        raise error_for_silence(str(fault), wait, lone=fault.lone) from fault
    except Exception:
        await state.records.free(record, by=limits.mark)
        raise


main = stage(email, lifespan=lifespan)
