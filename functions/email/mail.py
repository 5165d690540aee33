"""A mail, and the SMTP server that takes it."""

import re
import socket
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from milepost.errors import ConfigurationError

_PORTS = {"smtp": 25, "smtps": 465, "smtp+starttls": 587}
_URL = re.compile(r"[A-Za-z+]+://([^\s\x00-\x1f\x7f/?#\[\]]+@)?[^\s/?#@]+/?")
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


class Unanswered(Exception):
    """The SMTP server has the whole message and did not reply, so nobody knows whether the mail is out.

    `lone`: the server has taken another mail since it was given this one, or since this one failed before.
    """

    def __init__(self, reason: str, *, lone: bool) -> None:
        super().__init__(reason)
        self.lone = lone


@dataclass(frozen=True)
class TimeLimits:
    """The times at which the steps of one mail end, as the event loop counts.

    A mail waits for a free connection during the first tenth of the request. Its message is sent in the first half or
    not at all, so that the server has two fifths at least to reply: a message without a reply may be sent twice. The
    last tenth is left to mark the mail and to answer, as the caller counts a timeout against the event. No operation on
    MongoDB is waited for after `mark`.
    """

    connection: float
    message: float
    reply: float
    mark: float

    @classmethod
    def of_request(cls, began: float, timeout: float) -> Self:
        """Share out `timeout`, the seconds that the caller waits."""
        return cls(began + timeout / 10, began + timeout / 2, began + timeout * 9 / 10, began + timeout * 19 / 20)


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
                "in user and password, : / ? # [ ] % are written as %3A %2F %3F %23 %5B %5D %25"
            )
        return cls(
            scheme=url.scheme,
            host=host,
            port=port,
            user=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
            helo=helo,
        )


def check_helo(name: str | None) -> str | None:
    """Check SMTP_HELO, if it is set. Raises ConfigurationError."""
    if name and not _HELO.fullmatch(name):
        raise ConfigurationError(
            "SMTP_HELO: must be a domain name, as in mail.example.org, or an address in brackets, as in [192.0.2.1]"
        )
    return name


def default_helo(sender_domain: str) -> str:
    """The name in EHLO: the sender's domain, else this host's name, if one has a dot, as servers demand; else an
    address (RFC 5321, section 4.1.4).
    """
    names = [name for name in (sender_domain, socket.gethostname()) if _HELO.fullmatch(name)]
    return names[0] if names else SmtpServer.helo
