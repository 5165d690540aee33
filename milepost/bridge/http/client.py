"""An HTTP client for one URL: it POSTs over connections that it keeps open."""

import asyncio
import re
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from milepost.bridge.http.connection import Connection, Lost, NotSent, Response, ResponseTooLarge
from milepost.errors import ConfigurationError
from milepost.events.event import MAX_EVENT

__all__ = ["Client", "Lost", "NotSent", "Response", "ResponseTooLarge"]

IDLE = 30.0
"""Seconds after which an unused connection is closed."""

_PORTS = {"http": 80, "https": 443}
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS = frozenset({"host", "content-type", "content-length", "transfer-encoding", "connection", "expect", "upgrade"})
_NEVER = float("inf")
_EARLY = 0.001  # uvloop's clock and timers keep whole milliseconds: one may fire this much early


class Client:
    """POSTs to `url`. Each POST has a connection for itself, which is kept for the next one.

    The caller limits how many POSTs are under way at once. Times are in seconds, sizes in bytes. `headers` go with
    every request. Raises ConfigurationError for a URL or a header that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout: float = 5.0,
        largest_response: int = MAX_EVENT,
        ssl_context: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        try:
            scheme, self._host, self._port, authority, target = split_url(url)
            fixed = _lines(headers or {})
        except ValueError as fault:
            shown = f"…@{url.rpartition('@')[2]}" if "@" in url else url  # never a password
            raise ConfigurationError(f"{shown}: {fault}") from None
        # For errors: a path or a query may hold a token, and visitors see why an event was given up.
        self._peer = f"{scheme}://{authority}"
        self._ssl = (ssl_context or ssl.create_default_context()) if scheme == "https" else None
        self._connect_timeout = connect_timeout
        self._largest_response = largest_response
        head = f" {target} HTTP/1.1\r\nHost: {authority}\r\n".encode() + fixed
        self._start = b"POST" + head
        self._get = b"GET" + head + b"\r\n"
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []  # the latest used is used next, so that the surplus ages
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER
        self._closed = False

    async def post(
        self,
        body: bytes,
        *,
        content_type: str,
        timeout: float,  # noqa: ASYNC109 - one timer serves all POSTs, far cheaper than a scope around each
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send `body` and return the response, with any HTTP status.

        Raises NotSent, Lost (also after `timeout` seconds) or ResponseTooLarge; ValueError for a header that cannot be
        sent.
        """
        request = b"%b%bContent-Length: %d\r\n\r\n%b" % (
            self._start + _line("Content-Type", content_type),
            _lines(headers) if headers else b"",
            len(body),
            body,
        )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        connection = self._take()
        kept = connection is not None
        if connection is None:
            connection = await self._connect(loop, deadline)
        while True:
            if deadline < self._timer_at:
                self._watch(loop, deadline)
            try:
                outcome = await connection.send(request, deadline)
            except asyncio.CancelledError:
                connection.abort()
                raise
            if isinstance(outcome, Response):
                self._give_back(connection, loop)
                return outcome
            if not (kept and connection.dropped):
                try:
                    raise outcome
                finally:
                    del outcome  # it refers to this frame, and so to the body: the two would keep each other
            # A server may close an idle connection just when it is used again: then send the request once more.
            kept = False
            try:
                connection = await self._connect(loop, deadline)
            except NotSent as fault:
                # It was sent once, and may have ended the server.
                raise Lost(f"{outcome}; then {fault}") from None

    async def get(self, *, timeout: float) -> int:  # noqa: ASYNC109 - as above
        """GET the URL on a connection of its own, and return the HTTP status. Raises as `post` does."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        connection = await self._connect(loop, deadline)
        try:
            if deadline < self._timer_at:
                self._watch(loop, deadline)
            outcome = await connection.send(self._get, deadline)
        finally:
            connection.abort()
        if isinstance(outcome, Response):
            return outcome.status
        raise outcome

    async def close(self) -> None:
        """Close every connection. POSTs under way raise Lost, later ones NotSent."""
        self._closed = True
        lost = [connection.lost for connection in self._connections]
        for connection in tuple(self._connections):
            connection.fail(Lost(f"{self._peer}: the client was closed"))
        if lost:
            await asyncio.wait(lost)

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    def _give_back(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        if self._closed or not connection.usable:
            connection.abort()
            return
        until = loop.time() + IDLE
        connection.rest(until)
        self._idle.append(connection)
        if until < self._timer_at:
            self._watch(loop, until)

    async def _connect(self, loop: asyncio.AbstractEventLoop, deadline: float) -> Connection:
        if self._closed:
            raise NotSent(f"{self._peer}: the client was closed")
        connection = Connection(self._peer, self._largest_response, loop, self._connections.discard)
        try:
            async with asyncio.timeout_at(min(deadline, loop.time() + self._connect_timeout)):
                await loop.create_connection(lambda: connection, self._host, self._port, ssl=self._ssl)
        except TimeoutError:
            raise NotSent(f"{self._peer}: no connection in time") from None
        except (OSError, UnicodeError) as fault:  # UnicodeError: a host name that DNS cannot hold
            raise NotSent(f"{self._peer}: {fault}") from None
        if not connection.usable:
            raise NotSent(f"{self._peer}: closed the connection before anything was sent")
        self._connections.add(connection)
        if self._closed:
            connection.abort()
            raise NotSent(f"{self._peer}: the client was closed")
        return connection

    def _watch(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        """Let `_sweep` run at loop time `at`, the earliest deadline of all connections. It is the only timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = loop.call_at(at, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time() + _EARLY
        self._timer_at = _NEVER
        earliest = _NEVER
        for connection in tuple(self._connections):
            if connection.deadline <= now:
                connection.expire()
            elif connection.deadline < earliest:
                earliest = connection.deadline
        if earliest < _NEVER:
            self._watch(loop, earliest)


def split_url(url: str) -> tuple[str, str, int, str, str]:
    """Return scheme, host, port, Host header and request target of a URL.

    Raises ValueError, whose text holds nothing of the URL, if no event can be POSTed to it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text may hold a part of a password
        raise ValueError("its host or port cannot be read") from None
    host = parts.hostname
    if not _PRINTABLE.fullmatch(url) or parts.scheme not in _PORTS or not host or port == 0 or parts.fragment:
        raise ValueError("must look like http://host:port/path, or https://, percent-encoded")
    if "@" in url:
        raise ValueError("must hold no user or password; an @ in its path or query is written %40")
    authority = f"[{host}]" if ":" in host else host
    if port not in {None, _PORTS[parts.scheme]}:
        authority = f"{authority}:{port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, host, port or _PORTS[parts.scheme], authority, target


def _lines(headers: Mapping[str, str]) -> bytes:
    for name in headers:
        if name.lower() in _OURS:
            raise ValueError(f"header {name} is the client's own")
    return b"".join(_line(name, value) for name, value in headers.items())


def _line(name: str, value: str) -> bytes:
    if not _NAME.fullmatch(name):
        raise ValueError(f"no header name: {name!r}")
    if not _VALUE.fullmatch(value):
        raise ValueError(f"header {name}: its value would break the request")
    return f"{name}: {value}\r\n".encode("latin-1")
