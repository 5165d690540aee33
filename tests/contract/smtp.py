"""A real SMTP server for tests. It answers MAIL FROM, RCPT TO and a message with `sender`, `recipient` and `answer`."""

import asyncio
import inspect
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP as SmtpProtocol  # noqa: N811
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

from tests.servers import HOST, WITHIN, free_port

ACCEPTED = "250 OK"


@dataclass
class Inbox:
    answer: Callable[[], str | Awaitable[str]] = lambda: ACCEPTED
    recipient: Callable[[str], str] = lambda _: ACCEPTED
    sender: Callable[[str], str] = lambda _: ACCEPTED
    hangs_up_on_message: bool = False
    hangs_up_on_quit: bool = False
    hangs_up_on_recipient: str = ""
    messages: list[Message] = field(default_factory=list)
    envelopes: list[Envelope] = field(default_factory=list)
    helo_names: list[str] = field(default_factory=list)

    def reset(self) -> None:
        """As new, but the same object: the server knows it."""
        vars(self).update(vars(Inbox()))

    async def handle_MAIL(self, _server: Any, session: Session, envelope: Envelope, address: str, _options: Any) -> str:
        self.helo_names.append(session.host_name or "")
        reply = self.sender(address)
        if reply == ACCEPTED:
            envelope.mail_from = address
        return reply

    async def handle_RCPT(self, server: SmtpProtocol, _session: Any, envelope: Envelope, to: str, _options: Any) -> str:
        if to == self.hangs_up_on_recipient and server.transport is not None:
            server.transport.close()
        reply = self.recipient(to)
        if reply == ACCEPTED:
            envelope.rcpt_tos.append(to)
        return reply

    async def handle_DATA(self, server: SmtpProtocol, _session: Any, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.messages.append(message_from_bytes(envelope.content))
        self.envelopes.append(envelope)
        if self.hangs_up_on_message and server.transport is not None:
            server.transport.close()
        answer = self.answer()
        return await answer if inspect.isawaitable(answer) else answer

    async def handle_QUIT(self, server: SmtpProtocol, _session: Any, _envelope: Envelope) -> str:
        if self.hangs_up_on_quit and server.transport is not None:
            server.transport.close()
        return "221 Bye"


class SmtpServer:
    """`with SmtpServer() as smtp:` listens at smtp.url and keeps its mails in smtp.inbox."""

    def __init__(
        self,
        *,
        login: tuple[bytes, bytes] | None = None,
        tls: ssl.SSLContext | None = None,
        utf8_addresses: bool = True,
    ) -> None:
        self.inbox = Inbox()
        self.login = login
        self.port = free_port()
        self.url = f"smtp://{HOST}:{self.port}"

        def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
            assert isinstance(data, LoginPassword)
            right = (data.login, data.password) == self.login
            return AuthResult(success=right, handled=right)  # aiosmtpd answers 535 if it is not handled

        self._controller = Controller(
            self.inbox,
            hostname=HOST,
            port=self.port,
            ready_timeout=WITHIN,
            tls_context=tls,
            require_starttls=tls is not None,
            authenticator=authenticate if login else None,
            auth_required=login is not None,
            auth_require_tls=False,
            enable_SMTPUTF8=utf8_addresses,
        )

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def stop_listening(self) -> None:
        """Refuse new connections. Those that are open go on."""
        server = self._controller.server
        assert server is not None

        async def close() -> None:
            server.close()

        asyncio.run_coroutine_threadsafe(close(), self._controller.loop).result(WITHIN)

    def __exit__(self, *_: object) -> None:
        self._controller.stop()
