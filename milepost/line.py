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


class Line:
    """Calls to the server of `redis`, connected at the first of them and again when a connection was lost.

    A call that was on a connection when it was lost is sent once more, so it may run twice; not with `again=False`.
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
        try:
            return await self._carry(packed)
        except ConnectionLost:
            if not self._again or self._closed:
                raise
        return await self._carry(packed)

    async def _carry(self, packed: bytes) -> Any:
        wire = self._wire
        if wire is None or not wire.usable:
            wire = await self._open()
        return await wire.send(packed)

    async def _open(self) -> "_Wire":
        """A connection, made once for all who wait for it."""
        if self._closed:
            raise ConnectionLost("closed")
        opening = self._opening
        if opening is None:
            opening = self._opening = asyncio.create_task(self._connect())
            opening.add_done_callback(self._opened)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled():  # by `close`, and not this caller
                raise ConnectionLost("closed") from None
            raise

    def _opened(self, task: "asyncio.Task[_Wire]") -> None:
        self._opening = None
        if not task.cancelled() and task.exception() is None:
            self._wire = task.result()

    async def _connect(self) -> "_Wire":
        connection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
        except asyncio.CancelledError:
            await connection.disconnect(nowait=True)
            raise
        return _Wire(connection)

    async def close(self) -> None:
        """Close the connection. Calls under way, and later ones, raise."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._wire is not None:
            self._wire.fail(ConnectionLost("closed"))


class _Wire(asyncio.Protocol):
    """What is on one connection. A reply that does not come within the connection's time-out ends it."""

    def __init__(self, connection: AbstractConnection) -> None:
        writer = connection._writer  # noqa: SLF001 - the one way to what redis-py connects and does not parse
        if writer is None:
            raise ConnectionLost("not connected")
        self.usable = True
        self._writer = writer  # which would close the transport when nothing refers to it
        connection._writer = connection._reader = None  # noqa: SLF001 - it is ours from here on
        self._transport = writer.transport
        self._within = cast("float", connection.socket_timeout)
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader(protocolError=ConnectionLost, replyError=_refusal)
        self._awaited: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Write a whole command; the future gets its reply."""
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._awaited.append((reply, self._loop.time() + self._within))
        if self._timer is None:
            self._timer = self._loop.call_later(self._within, self._look)
        self._transport.write(packed)
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
        parser, awaited = self._parser, self._awaited
        try:
            parser.feed(data)
            while (answer := parser.gets()) is not False:
                if isinstance(answer, hiredis.PushNotification):
                    continue
                reply, _ = awaited.popleft()
                if reply.done():
                    continue
                if isinstance(answer, ResponseError):
                    reply.set_exception(answer)
                else:
                    reply.set_result(answer)
        except ConnectionLost as fault:
            self.fail(fault)
        except IndexError:
            self.fail(ConnectionLost("a reply that nobody asked for"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(ConnectionLost(str(exc) if exc else "Redis closed the connection"))


def _refusal(text: str) -> ResponseError:
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)
