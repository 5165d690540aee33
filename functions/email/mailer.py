"""Send a mail: by SMTP where SMTP_URL is set, and in any case as one line, in a file or on stdout."""

import asyncio
import logging
import os
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from functions.email.mail import Mail, SmtpServer, TimeLimits, check_helo, default_helo
from milepost.errors import ConfigurationError, Unavailable
from milepost.function.environment import seconds
from milepost.observe.logs import Fields

if TYPE_CHECKING:
    from functions.email.smtp import SmtpSender

log = logging.getLogger("milepost.email")


@dataclass(frozen=True)
class Mailer:
    """Sends mails. `sent_emails`: the file of lines, None for stdout."""

    sent_emails: Path | None = None
    smtp: "SmtpSender | None" = None

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings. Raises ConfigurationError, which names the variable that is wrong."""
        path, url = environ.get("SENT_EMAILS"), environ.get("SMTP_URL")
        timeout = seconds(environ, "SMTP_TIMEOUT", 30.0)
        connections = count(environ, "SMTP_CONNECTIONS", 10)
        helo = check_helo(environ.get("SMTP_HELO"))
        smtp = None
        if url or "MAIL_FROM" in environ:
            from functions.email.smtp import SmtpSender, parse_sender

            sender = parse_sender(environ.get("MAIL_FROM", "Milepost <milepost@localhost>"))
            if url:
                server = SmtpServer.parse(url, helo=helo or default_helo(sender.domain))
                smtp = SmtpSender(server, sender, timeout=timeout, connections=connections)
        return cls(Path(path) if path else None, smtp)

    @property
    def is_busy(self) -> bool:
        """Whether all connections to the SMTP server are in use."""
        return self.smtp is not None and self.smtp.is_busy

    def connection(self, limits: TimeLimits) -> AbstractAsyncContextManager[None]:
        """Hold one of the SMTP connections in the body, if there is an SMTP server. Raises Defer if none gets free."""
        return nullcontext() if self.smtp is None else self.smtp.connection(limits)

    async def send(self, mail: Mail, limits: TimeLimits) -> None:
        """Return when the mail is out: after the SMTP server's 250, if there is one, and the line. The caller holds a
        `connection`.

        Raises Reject, Defer or Unavailable, as functions/email/smtp_faults.py decides, or Unanswered.
        """
        if asyncio.get_running_loop().time() > limits.message:  # MongoDB was slow, or the process was suspended
            raise Unavailable("the request's time was over before the mail could be sent")
        if self.smtp is not None:
            await self.smtp.send(mail, limits)
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


def count(environ: Mapping[str, str], name: str, default: int) -> int:
    """Read a number of things. Raises ConfigurationError naming the variable."""
    text = environ.get(name, str(default))
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise ConfigurationError(f"{name}: must be a whole number from 1 to 9999")
    return int(text)
