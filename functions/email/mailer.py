"""Send a mail: by SMTP where SMTP_URL is set, and in any case as one line, in a file or on stdout."""

import logging
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

from milepost.errors import ConfigurationError, Unavailable
from milepost.observe.logs import Fields

if TYPE_CHECKING:
    from functions.email.smtp import SmtpSender

log = logging.getLogger("milepost.email")

_PORTS = {"smtp": 25, "smtps": 465, "smtp+starttls": 587}
_URL = re.compile(r"[A-Za-z+]+://([^\s/?#]+@)?[^\s/?#@]+/?")
_HELO = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+|\[[A-Za-z0-9:.]+\]")


@dataclass(frozen=True)
class Mail:
    """One mail: the event's id, the recipient's address, the plain text. `attempt` counts from 1."""

    id: str
    to: str
    text: str
    attempt: int = 1

    @property
    def line(self) -> str:
        return f"Email sent to: {self.to}; Message: {self.text}\n"


@dataclass(frozen=True)
class SmtpServer:
    """An SMTP server: `smtp` in the clear, `smtps` and `smtp+starttls` under TLS. `helo` is our name in EHLO."""

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    helo: str = "[127.0.0.1]"

    @classmethod
    def parse(cls, text: str, *, helo: str = helo) -> Self:
        """Read `smtps://user:password@host:port`. Raises ConfigurationError, without the value."""
        try:
            url = urlsplit(text)
            port = url.port or _PORTS[url.scheme]
            host = (url.hostname or "").encode("idna").decode()
            well_formed = host and _URL.fullmatch(text) and bool(url.username) == bool(url.password)
        except (ValueError, KeyError):
            well_formed = False
        if not well_formed:
            schemes = ", ".join(f"{scheme}://" for scheme in _PORTS)
            raise ConfigurationError(
                f"SMTP_URL: must look like smtps://[user:password@]host:port, with one of {schemes}; "
                "in user and password, : / ? # % are written as %3A %2F %3F %23 %25"
            )
        return cls(
            scheme=url.scheme,
            host=host,
            port=port,
            user=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
            helo=helo,
        )


@dataclass(frozen=True)
class Mailer:
    """Sends mails. `sent_emails`: the file of lines, None for stdout. `timeout`: seconds that SMTP may last."""

    sent_emails: Path | None = None
    smtp: "SmtpSender | None" = None
    timeout: float = 30.0

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings. Raises ConfigurationError, which names the variable that is wrong."""
        path, url = environ.get("SENT_EMAILS"), environ.get("SMTP_URL")
        timeout = seconds(environ, "SMTP_TIMEOUT", cls.timeout)
        smtp = None
        if url or "MAIL_FROM" in environ:
            from functions.email.smtp import SmtpSender, parse_sender  # noqa: PLC0415 - 20 ms of a cold start

            sender = parse_sender(environ.get("MAIL_FROM", "Milepost <milepost@localhost>"))
            helo = environ.get("SMTP_HELO") or default_helo(sender.domain)
            if not _HELO.fullmatch(helo):
                raise ConfigurationError(
                    "SMTP_HELO: must be a domain name, as in mail.example.org, or an address in brackets, "
                    "as in [192.0.2.1]"
                )
            if url:
                smtp = SmtpSender(SmtpServer.parse(url, helo=helo), sender, timeout=timeout)
        return cls(Path(path) if path else None, smtp, timeout)

    async def send(self, mail: Mail) -> None:
        """Return when the mail is out: after the SMTP server's 250, if there is one, and the line.

        Raises Reject, Defer or Unavailable, as functions/email/smtp_faults.py decides.
        """
        if self.smtp is not None:
            await self.smtp.send(mail)
        try:
            self._log(mail.line.encode())
        except OSError as fault:
            if self.smtp is None:
                raise Unavailable(f"SENT_EMAILS: {fault.strerror}") from fault
            log.exception(Fields(outcome="sent", line="lost"))  # the mail is out: no second one

    def _log(self, line: bytes) -> None:
        if self.sent_emails is None:
            sys.stdout.flush()
            written = os.write(1, line)
        else:
            file = os.open(self.sent_emails, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                written = os.write(file, line)
            finally:
                os.close(file)
        if written != len(line):
            raise OSError(0, "only a part of the line could be written")


def default_helo(sender_domain: str) -> str:
    """The name in EHLO: the sender's domain, else this host's name, if one has a dot, as servers demand; else an
    address (RFC 5321, section 4.1.4).
    """
    names = [name for name in (sender_domain, socket.gethostname()) if _HELO.fullmatch(name)]
    return names[0] if names else SmtpServer.helo


def seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    """Read a duration. Raises ConfigurationError naming the variable."""
    try:
        value = float(environ.get(name, default))
    except ValueError:
        value = -1.0
    if not 0 < value <= 3600:
        raise ConfigurationError(f"{name}: must be a number of seconds, above 0 and at most 3600")
    return value
