"""Send one mail over SMTP."""

import asyncio
import contextlib
import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from email.errors import NonASCIILocalPartDefect, ObsoleteHeaderDefect
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as ASCII_HEADERS
from email.policy import SMTPUTF8 as UTF8_HEADERS
from email.utils import localtime
from enum import IntEnum
from errno import EADDRNOTAVAIL, EAFNOSUPPORT, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH
from hashlib import sha256
from urllib.parse import quote

import idna
from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)
from email_validator import validate_email

from functions.email.mail import Mail, SmtpServer, TimeLimits, Unanswered
from functions.email.smtp_faults import error_for_reply, error_for_route
from milepost.errors import ConfigurationError, Defer, MilepostError, Reject, Unavailable

_HARMLESS = (ObsoleteHeaderDefect, NonASCIILocalPartDefect)
"""Defects that the header parser reports for `Acme Co. <…>`, and for `jörg@…`, which SMTPUTF8 allows."""

_STEPS = {
    SMTPHeloError: "EHLO",
    SMTPAuthenticationError: "AUTH",
    SMTPSenderRefused: "MAIL FROM",
    SMTPRecipientRefused: "RCPT TO",
    SMTPDataError: "DATA",
}

_NO_ROUTE = {EAFNOSUPPORT, EADDRNOTAVAIL, ENETUNREACH, EHOSTUNREACH}
"""Errors of an address that this host cannot reach, as an IPv6 address without a route."""

_MOST_REFUSALS = 1024
"""Mails whose last refusal is kept in memory."""


class _Reached(IntEnum):
    """How far a transaction came."""

    NOTHING = 0
    CONNECTED = 1
    SENDER_ACCEPTED = 2
    MESSAGE_SENT = 3


class SmtpSender:
    """Sends mails through one server, a connection for each, `connections` at once."""

    def __init__(self, server: SmtpServer, sender: Address, *, timeout: float, connections: int = 10) -> None:
        self._server = server
        self._sender = sender
        self._timeout = timeout
        self._free_connections = asyncio.Semaphore(connections)
        self._connected = 0
        self._accepted = 0
        self._refusals: OrderedDict[str, int] = OrderedDict()

    @property
    def is_busy(self) -> bool:
        """Whether all connections are in use."""
        return self._free_connections.locked()

    @contextlib.asynccontextmanager
    async def connection(self, limits: TimeLimits) -> AsyncIterator[None]:
        """Hold one of the connections in the body. Raises Defer if none gets free in time."""
        try:
            async with asyncio.timeout_at(limits.connection):
                await self._free_connections.acquire()
        except TimeoutError:
            raise Defer("SMTP: all connections were in use", retry_after=1) from None
        try:
            yield
        finally:
            self._free_connections.release()

    async def send(self, mail: Mail, limits: TimeLimits) -> None:
        """Return after the server's 2xx for the message. The caller holds a `connection`.

        The setting SMTP_TIMEOUT ends where the server asks for the message. Its reply may take minutes, as it may scan
        the message first (RFC 5321, section 4.5.3.2.6), and to send the message again would make a second mail.

        Raises Reject when the mail is refused for good, Defer when this mail alone must wait, Unavailable when all
        must, Unanswered when the server has the message and does not reply.
        """
        loop = asyncio.get_running_loop()
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
        reached, accepted = _Reached.NOTHING, self._accepted
        try:
            async with asyncio.timeout_at(min(limits.message, loop.time() + self._timeout)):
                await client.connect()
                reached = _Reached.CONNECTED
                self._connected += 1
                await self._begin(client, to, utf8=utf8)
                reached = _Reached.SENDER_ACCEPTED
                await client.rcpt(to.addr_spec, encoding="utf-8")
                await _begin_data(client)
            async with asyncio.timeout_at(limits.reply):
                reached = _Reached.MESSAGE_SENT
                await _finish_data(client, message)
            self._accepted += 1
            self._refusals.pop(mail.id, None)
            with contextlib.suppress(SMTPException, OSError):  # the mail is out, also if QUIT fails
                async with asyncio.timeout_at(min(limits.reply, loop.time() + 1)):
                    await client.quit()
        except (SMTPException, OSError) as failed:
            raise self._error(failed, mail, reached, others_passed=self._accepted > accepted) from failed
        finally:
            if reached >= _Reached.CONNECTED:
                self._connected -= 1
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

    def _error(
        self, failed: Exception, mail: Mail, reached: _Reached, *, others_passed: bool
    ) -> MilepostError | Unanswered:
        """Make the exception for a transaction that failed. `others_passed`: the server took another mail meanwhile."""
        reply = failed if isinstance(failed, SMTPResponseException) and failed.code > 0 else None
        lone = reached >= _Reached.SENDER_ACCEPTED and self._lone(mail)
        others = self._connected - (reached >= _Reached.CONNECTED)
        if others and (_is_connection_refused(failed) or (reply and reply.code == 421)):
            lone = True  # the server has enough connections of ours, and serves those
        if reply:
            return error_for_reply(_step(reply), reply.code, reply.message, attempt=mail.attempt, lone=lone)
        reason = f"SMTP: {type(failed).__name__} {failed}".rstrip()
        if reached is _Reached.MESSAGE_SENT:
            return Unanswered(f"{reason}; the server has the message and did not reply", lone=lone or others_passed)
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


def _is_connection_refused(failed: Exception) -> bool:
    """Whether every address of the server that has a route refused the TCP connection. If it has several addresses,
    asyncio joins the texts of their errors and keeps no number.
    """
    numbers = {int(number) for number in re.findall(r"\[Errno (-?\d+)\]", str(failed))}
    return isinstance(failed, SMTPConnectError) and numbers - _NO_ROUTE == {ECONNREFUSED}


async def _begin_data(client: SMTP) -> None:
    """Send DATA. Raises SMTPDataError unless the server waits for the message then."""
    reply = await client.execute_command(b"DATA")
    if reply.code != 354:
        raise SMTPDataError(reply.code, reply.message)


async def _finish_data(client: SMTP, message: bytes) -> None:
    """Send the message, and wait for the reply. Raises SMTPDataError for one that is not 2xx.

    aiosmtplib's `data` does not tell whether it failed before the message was sent or after.
    """
    if client.protocol is None:
        raise SMTPServerDisconnected("Connection lost")
    client.protocol.write(re.sub(rb"(?m)^\.", b"..", message) + b".\r\n")
    reply = await client.protocol.read_response()
    if not 200 <= reply.code < 300:
        raise SMTPDataError(reply.code, reply.message)


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
