"""Send one mail over SMTP."""

import asyncio
import contextlib
from collections import OrderedDict
from email.errors import NonASCIILocalPartDefect, ObsoleteHeaderDefect
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as ASCII_HEADERS
from email.policy import SMTPUTF8 as UTF8_HEADERS
from email.utils import localtime
from hashlib import sha256
from urllib.parse import quote

import idna
from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPSenderRefused,
)
from email_validator import validate_email

from functions.email.mail import Mail, SmtpServer
from functions.email.smtp_faults import error_for_reply, error_for_route
from milepost.errors import ConfigurationError, MilepostError, Reject, Unavailable

_HARMLESS = (ObsoleteHeaderDefect, NonASCIILocalPartDefect)
"""Defects that the header parser reports for `Acme Co. <…>`, and for `jörg@…`, which SMTPUTF8 allows."""

_STEPS = {
    SMTPHeloError: "EHLO",
    SMTPAuthenticationError: "AUTH",
    SMTPSenderRefused: "MAIL FROM",
    SMTPRecipientRefused: "RCPT TO",
    SMTPDataError: "DATA",
}

_MOST_REFUSALS = 1024
"""Mails whose last refusal is kept in memory."""


class SmtpSender:
    """Sends mails through one server, a connection for each."""

    def __init__(self, server: SmtpServer, sender: Address, *, timeout: float) -> None:
        self._server = server
        self._sender = sender
        self._timeout = timeout
        self._accepted = 0
        self._refusals: OrderedDict[str, int] = OrderedDict()

    async def send(self, mail: Mail) -> None:
        """Return after the server's 250 for the message, within the time-out.

        Raises Reject when the mail is refused for good, Defer when this mail alone must wait, Unavailable when all
        must.
        """
        client = SMTP(
            hostname=self._server.host,
            port=self._server.port,
            username=self._server.user,
            password=self._server.password,
            use_tls=self._server.scheme == "smtps",
            start_tls=self._server.scheme == "smtp+starttls",
            local_hostname=self._server.helo,
            timeout=self._timeout,
        )
        to = ascii_domain(mail.to)
        utf8 = not (self._sender.username + to.username).isascii()
        message = compose(mail, self._sender, to).as_bytes(policy=UTF8_HEADERS if utf8 else ASCII_HEADERS)
        sender_accepted = False
        try:
            async with asyncio.timeout(self._timeout):
                await client.connect()
                await self._begin(client, to, utf8=utf8)
                sender_accepted = True
                await client.rcpt(to.addr_spec, encoding="utf-8")
                await client.data(message)
            self._accepted += 1
            self._refusals.pop(mail.id, None)
            with contextlib.suppress(SMTPException, OSError):  # the mail is out, also if QUIT fails
                await client.quit(timeout=1)
        except (SMTPException, OSError) as failed:
            raise self._error(failed, mail, lone=sender_accepted and self._lone(mail)) from failed
        finally:
            client.close()

    async def _begin(self, client: SMTP, to: Address, *, utf8: bool) -> None:
        """Send MAIL FROM. Raises Reject or Unavailable if an address is not ASCII and the server takes no other."""
        if utf8:
            if client.is_ehlo_or_helo_needed:
                await client.ehlo()
            if not client.supports_extension("smtputf8"):
                if self._sender.username.isascii():
                    raise Reject(f"SMTP: the server takes ASCII addresses only (no SMTPUTF8), not {to.addr_spec}")
                raise Unavailable("MAIL_FROM: the SMTP server takes ASCII addresses only (no SMTPUTF8)")
        options = ["SMTPUTF8", "BODY=8BITMIME"] if utf8 else []
        await client.mail(self._sender.addr_spec, options=options, encoding="utf-8")

    def _error(self, failed: Exception, mail: Mail, *, lone: bool) -> MilepostError:
        if isinstance(failed, SMTPResponseException):
            return error_for_reply(_step(failed), failed.code, failed.message, attempt=mail.attempt, lone=lone)
        reason = f"SMTP: {type(failed).__name__} {failed}".rstrip()
        return error_for_route(reason, attempt=mail.attempt, lone=lone)

    def _lone(self, mail: Mail) -> bool:
        """Note the refusal of a mail. Returns whether others were accepted since its last one."""
        accepted_then = self._refusals.pop(mail.id, self._accepted)
        self._refusals[mail.id] = self._accepted
        if len(self._refusals) > _MOST_REFUSALS:
            self._refusals.popitem(last=False)
        return accepted_then < self._accepted


def _step(refusal: SMTPResponseException) -> str:
    """Return the name of the refused command in the table of smtp_faults.py."""
    return next((step for kind, step in _STEPS.items() if isinstance(refusal, kind)), "connection")


def compose(mail: Mail, sender: Address, to: Address) -> EmailMessage:
    """Write the message in plain text. The event's id is its Message-ID, so that a second copy can be recognised."""
    message = EmailMessage(policy=ASCII_HEADERS)
    message["From"] = sender
    message["To"] = to
    message["Subject"] = "Your distance from Velocity"
    message["Date"] = localtime()
    message["Message-ID"] = message_id(mail.id)
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    return message


def message_id(event_id: str) -> str:
    """Make <id@milepost>. Characters that RFC 5322 forbids are percent-encoded, and a long id is hashed."""
    safe = quote(event_id, safe="").replace(".", "%2E")
    if len(safe) > 200:
        safe = sha256(event_id.encode()).hexdigest()
    return f"<{safe}@milepost>"


def parse_sender(text: str) -> Address:
    """Read MAIL_FROM: one address, with a name or without. Raises ConfigurationError."""
    header = ASCII_HEADERS.header_factory("From", text)
    named = len(header.groups) == 1 and header.groups[0].display_name is not None
    broken = [defect for defect in header.defects if not isinstance(defect, _HARMLESS)]
    if len(header.addresses) == 1 and not named and not broken and text.isprintable():
        (address,) = header.addresses
        with contextlib.suppress(idna.IDNAError):
            domain = idna.encode(address.domain, uts46=True).decode()
            return Address(display_name=address.display_name, username=address.username, domain=domain)
    raise ConfigurationError(
        "MAIL_FROM: must be one address, as in Milepost <milepost@example.org>; "
        'a name with a comma needs quotes, as in "Velocity, Inc." <milepost@example.org>'
    )


def ascii_domain(text: str) -> Address:
    """Read an address, its domain in ASCII (IDNA), so that only its local part can need SMTPUTF8. Raises ValueError."""
    found = validate_email(text, check_deliverability=False, globally_deliverable=False)
    return Address(username=found.local_part, domain=found.ascii_domain)
