"""How a mail leaves: by SMTP where SMTP_URL is set, and in any case as one line, in a file or on stdout."""

import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from milepost.errors import ConfigurationError, Unavailable
from milepost.log import Fields

log = logging.getLogger("milepost.email")

_SENDER = re.compile(r"[^<>]*<[^@\s<>,]+@[^@\s<>,]+>|[^@\s<>,]+@[^@\s<>,]+")
_PORTS = {"smtp": 25, "smtps": 465, "smtp+starttls": 587}


@dataclass(frozen=True)
class Mail:
    """One mail: the event's id, the recipient's address, and what it says, in plain text."""

    id: str
    to: str
    text: str

    @property
    def line(self) -> str:
        return f"Email sent to: {self.to}; Message: {self.text}\n"


@dataclass(frozen=True)
class SmtpServer:
    """An SMTP server and how it is spoken to: `smtp` in the clear, `smtps` and `smtp+starttls` under TLS."""

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `smtps://user:password@host:port`. Raises ConfigurationError, without the value."""
        try:
            url = urlsplit(text)
            port = url.port or _PORTS[url.scheme]
        except (ValueError, KeyError):
            url = None
        if url is None or not url.hostname or url.path.strip("/") or (url.username and not url.password):
            schemes = ", ".join(f"{scheme}://" for scheme in _PORTS)
            raise ConfigurationError(f"SMTP_URL: must look like smtps://[user:password@]host:port; one of {schemes}")
        return cls(
            scheme=url.scheme,
            host=url.hostname,
            port=port,
            user=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
        )


@dataclass(frozen=True)
class Mailer:
    """Where mails go. `sent_emails`: the file of lines, None for stdout. `timeout`: seconds that SMTP may last."""

    sent_emails: Path | None = None
    smtp: SmtpServer | None = None
    sender: str = "Milepost <milepost@localhost>"
    timeout: float = 30.0

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """From SENT_EMAILS, SMTP_URL, MAIL_FROM and SMTP_TIMEOUT. Raises ConfigurationError naming the variable."""
        path, url = environ.get("SENT_EMAILS"), environ.get("SMTP_URL")
        return cls(
            sent_emails=Path(path) if path else None,
            smtp=SmtpServer.parse(url) if url else None,
            sender=_sender(environ.get("MAIL_FROM", cls.sender)),
            timeout=seconds(environ, "SMTP_TIMEOUT", cls.timeout),
        )

    async def send(self, mail: Mail) -> None:
        """Return when the mail is out: after the SMTP server's 250, if there is one, and the line.

        Raises Reject when the recipient is refused for good, Unavailable when trying again may help.
        """
        if self.smtp is not None:
            from functions.email.smtp import deliver  # noqa: PLC0415 - 20 ms of cold start, where SMTP is on only

            await deliver(mail, self.smtp, sender=self.sender, timeout=self.timeout)
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


def seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    """A duration. Raises ConfigurationError naming the variable."""
    try:
        value = float(environ.get(name, default))
    except ValueError:
        value = -1.0
    if not 0 < value <= 3600:
        raise ConfigurationError(f"{name}: must be a number of seconds, above 0 and at most 3600")
    return value


def _sender(text: str) -> str:
    if not _SENDER.fullmatch(text) or not text.isprintable():
        raise ConfigurationError("MAIL_FROM: must be an address, as in Milepost <milepost@example.org>")
    return text
