"""The stage that tells people their distance: one mail for each submission."""

import asyncio
import os
from datetime import timedelta

from functions.email.mailer import Mail, Mailer, seconds
from functions.email.mails import Mails
from functions.mongo import Document, mongo_url, once_per_loop, open_database
from functions.payloads import EmailSent, Recipient
from milepost import Event, InHand, Reject, Unavailable, stage

MONGO_URL = mongo_url(os.environ)
MAILER = Mailer.read(os.environ)
REQUEST_TIMEOUT = seconds(os.environ, "REQUEST_TIMEOUT", 60.0)
"""Seconds that the caller waits for an answer: the bridge's `timeout`."""

HOLD = timedelta(seconds=MAILER.timeout + REQUEST_TIMEOUT + 10)
"""An attempt begins to send within the request's time or never, and sending has a time-out of its own: after both
it has ended, whatever became of it. The rest is for clocks that differ.
"""

mails = once_per_loop(lambda: Mails(open_database(MONGO_URL), HOLD))


async def email(recipient: Recipient, event: Event) -> EmailSent:
    """Mail the distance kept under the event's id, else the newest of its address. The same event mails once."""
    deadline = asyncio.get_running_loop().time() + REQUEST_TIMEOUT
    # Nearly every event is new; and a record that there is, taking finds.
    record = await _draft(event.id, recipient.root) or await mails().find(event.id)
    if record is None:
        raise Reject(f"no distance is kept for {recipient.root}")
    if _unsent(record, recipient.root):
        with mails().in_hand(event.id) as ours:
            record = await mails().take(record) if ours else await mails().find(event.id) or record
            if _unsent(record, recipient.root):
                if not ours:
                    raise InHand(f"the mail of {event.id} is being sent", retry_after=1)
                await _send(record, deadline)
    if record["email"] != recipient.root:
        raise Reject(f"id {event.id} is that of another address's mail")
    return EmailSent(
        email=record["email"],
        distance_from_velocity=record["distance_from_velocity"],
        message=record["message"],
    )


async def _draft(event_id: str, address: str) -> Document | None:
    user = await mails().user(event_id, address)
    if user is None:
        return None
    miles = user["distance_from_velocity"]
    return {
        "_id": event_id,
        "email": address,
        "distance_from_velocity": miles,
        "message": f"You are {miles} miles from Velocity.",
    }


def _unsent(record: Document, address: str) -> bool:
    return record.get("state") != "sent" and record["email"] == address


async def _send(record: Document, deadline: float) -> None:
    mail = Mail(id=record["_id"], to=record["email"], text=record["message"], attempt=record["taken"])
    late = asyncio.get_running_loop().time() > deadline  # this process stood still: its hold may be over
    try:
        if not late:
            await MAILER.send(mail)
    except Exception:
        await mails().release(record)
        raise
    if late:
        raise Unavailable("the request's time was over before the mail could be sent")
    await mails().mark_sent(record, deadline)


main = stage(email)
