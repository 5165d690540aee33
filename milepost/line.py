"""One connection to Redis that many calls share: commands leave as they are made, replies come back in that order.

redis-py connects it (TLS, user, password, database); from then on its replies are parsed here. A command costs less
than half of what it costs on a pool of connections, each with a lock, a reader and a time-out of its own, and a hop is
two of them.
"""

import asyncio
from collections import deque
from typing import Any, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as TimedOut

GONE = "Redis closed the connection"
CLOSED = "the line was closed"

ELSEWHERE = ("LOADING", "MASTERDOWN", "NOAUTH", "READONLY")
"""Refusals of a server that may be the wrong one by now, or asks for a login anew: the next call connects again."""

CANCEL_AGAIN = 0.1
"""Seconds after which a connecting that was cancelled and has not ended is cancelled again."""


class Line:
    """Calls to the server of `redis`, connected at the first of them and again when a connection was lost.

    A call whose connection is lost before its reply is sent once more, so it may run twice; not with `again=False`.
    For one event loop.
    """

    def __init__(self, redis: Redis, *, again: bool = True) -> None:
        self._redis = redis
        self._again = again
        self._wire: _Wire | None = None
        self._opening: asyncio.Task[_Wire] | None = None
        self._closed = False

    async def call(self, *command: str | bytes | int) -> Any:
        """The reply to one command, with texts as bytes. Raises RedisError or OSError; ResponseError for what Redis
        refuses. A caller that goes away changes nothing: the command is carried out.
        """
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # it takes int and bytes too
        wire = await self._connected()
        try:
            return await wire.send(packed)
        except ConnectionLost:
            if not self._again:
                raise
        wire = await self._connected()
        return await wire.send(packed)

    async def _connected(self) -> "_Wire":
        """The connection that there is, or one that is made once for all who wait for it."""
        if self._wire is not None and self._wire.usable:
            return self._wire
        if self._closed:
            raise ConnectionLost(CLOSED)
        opening = self._opening
        if opening is None:
            opening = self._opening = asyncio.create_task(self._open())
            opening.add_done_callback(self._opened)
        await asyncio.wait([opening])
        if opening.cancelled():
            raise ConnectionLost(CLOSED)
        return opening.result()

    async def _open(self) -> "_Wire":
        connection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
        except asyncio.CancelledError:
            await connection.disconnect(nowait=True)
            raise
        return _Wire(connection)

    def _opened(self, opening: "asyncio.Task[_Wire]") -> None:
        self._opening = None
        if opening.cancelled() or opening.exception():
            return
        self._wire = opening.result()
        if self._closed:
            self._wire.fail(ConnectionLost(CLOSED))

    async def close(self) -> None:
        """Close the connection. Calls under way, and later ones, raise."""
        self._closed = True
        opening = self._opening
        while opening is not None and not opening.done():
            opening.cancel()  # and again: before Python 3.12 the `wait_for` in redis-py's send can swallow it
            await asyncio.wait([opening], timeout=CANCEL_AGAIN)
        if self._wire is not None:
            self._wire.fail(ConnectionLost(CLOSED))


class _Wire(asyncio.Protocol):
    """What is on one connection. A reply that does not come within the connection's time-out ends it."""

    def __init__(self, connection: AbstractConnection) -> None:
        # The one way to what redis-py connects and does not parse. From here on it is ours.
        reader, writer = connection._reader, connection._writer  # noqa: SLF001
        connection._reader = connection._writer = None  # noqa: SLF001
        if reader is None or writer is None:
            raise ConnectionLost(GONE)
        self.usable = not reader.at_eof()
        self._writer = writer  # which would close the transport when nothing refers to it
        self._transport = writer.transport
        self._within = cast("float", connection.socket_timeout)
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader(protocolError=ConnectionLost, replyError=_refusal)
        self._awaited: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Write a whole command; the future gets its reply. Raises ConnectionLost if it cannot be written."""
        if not self.usable or self._transport.is_closing():
            self.fail(ConnectionLost(GONE))
            raise ConnectionLost(GONE)
        self._transport.write(packed)
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._awaited.append((reply, self._loop.time() + self._within))
        if self._timer is None:
            self._timer = self._loop.call_later(self._within, self._look)
        return reply

    def _look(self) -> None:
        """The only timer there is: for the reply that is awaited longest."""
        self._timer = None
        if not self._awaited:
            return
        _, deadline = self._awaited[0]
        if deadline <= self._loop.time():
            self.fail(TimedOut(f"no answer within {self._within:g} s"))
        else:
            self._timer = self._loop.call_at(deadline, self._look)

    def fail(self, fault: Exception) -> None:
        """End the connection, and every call that waits for it."""
        self.usable = False
        awaited, self._awaited = self._awaited, deque()
        for reply, _ in awaited:
            if not reply.done():
                reply.set_exception(fault)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()

    # What the event loop calls

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        try:
            parser.feed(data)
            while (answer := parser.gets()) is not False:
                if not isinstance(answer, hiredis.PushNotification):
                    self._reply(answer)
        except ConnectionLost as fault:
            self.fail(fault)

    def _reply(self, answer: Any) -> None:
        if not self._awaited:
            raise ConnectionLost("a reply that nobody asked for")
        reply, _ = self._awaited.popleft()
        if isinstance(answer, ResponseError):
            if not reply.done():
                reply.set_exception(answer)
            if str(answer).startswith(ELSEWHERE):
                raise ConnectionLost(str(answer))
        elif not reply.done():
            reply.set_result(answer)

    def eof_received(self) -> None:
        self.fail(ConnectionLost(GONE))

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(ConnectionLost(f"{GONE}: {exc}" if exc else GONE))


def _refusal(text: str) -> ResponseError:
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)
