"""One mail over SMTP."""

import asyncio
import contextlib
import socket
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import localtime, parseaddr
from hashlib import sha256
from urllib.parse import quote

from aiosmtplib import (
    SMTP,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPResponseException,
)
from email_validator import validate_email

from functions.email.mailer import Mail, SmtpServer
from milepost.errors import Reject, Unavailable

_RETRY_AFTER = 5.0


async def deliver(mail: Mail, server: SmtpServer, *, sender: str, timeout: float) -> None:  # noqa: ASYNC109 - of all
    """Return after the server's 250 for the message, within `timeout` seconds.

    Raises Reject when this mail is refused for good, Unavailable when trying again may help.
    """
    client = SMTP(
        hostname=server.host,
        port=server.port,
        username=server.user,
        password=server.password,
        use_tls=server.scheme == "smtps",
        start_tls=server.scheme == "smtp+starttls",
        local_hostname=socket.gethostname(),
        timeout=timeout,
    )
    message = compose(mail, sender)
    try:
        async with asyncio.timeout(timeout):
            await client.connect()
            await _submit(client, message)
    except (SMTPException, OSError) as fault:
        reason = f"{type(fault).__name__} {fault}".rstrip()
        raise Unavailable(f"SMTP: {reason}", retry_after=_RETRY_AFTER) from fault
    finally:
        client.close()


async def _submit(client: SMTP, message: EmailMessage) -> None:
    try:
        await client.send_message(message)
    except SMTPRecipientsRefused as fault:
        raise _refusal(fault.recipients[0]) from fault
    except SMTPDataError as fault:
        raise _refusal(fault) from fault
    except SMTPNotSupported as fault:  # the address needs SMTPUTF8
        raise Reject(f"SMTP: {fault.message}") from fault
    # The mail is out. How the server takes our leave changes nothing.
    with contextlib.suppress(SMTPException, OSError):
        await client.quit(timeout=1)


def _refusal(answer: SMTPResponseException) -> Reject | Unavailable:
    text = f"SMTP: {answer.code} {answer.message}"
    return Reject(text) if answer.code >= 500 else Unavailable(text, retry_after=_RETRY_AFTER)


def compose(mail: Mail, sender: str) -> EmailMessage:
    """The message, in plain text. The event's id is its Message-ID, so that a mail sent twice can be recognised."""
    message = EmailMessage(policy=SMTP_POLICY)
    name, address = parseaddr(sender)
    message["From"] = Address(display_name=name, addr_spec=address)
    message["To"] = _address(mail.to)
    message["Subject"] = "Your distance from Velocity"
    message["Date"] = localtime()
    message["Message-ID"] = message_id(mail.id)
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    return message


def message_id(event_id: str) -> str:
    """<id@milepost>: what RFC 5322 does not allow in it is percent-encoded, what is too long is hashed."""
    safe = quote(event_id, safe="").replace(".", "%2E")
    if len(safe) > 200:
        safe = sha256(event_id.encode()).hexdigest()
    return f"<{safe}@milepost>"


def _address(text: str) -> Address:
    """The address with its domain in ASCII, so that SMTPUTF8 is needed only for what stands before the @-sign."""
    found = validate_email(text, check_deliverability=False, globally_deliverable=False)
    return Address(username=found.local_part, domain=found.ascii_domain)
