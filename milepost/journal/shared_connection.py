"""One connection to Redis that many calls share: each command is sent at once, replies come in the order of commands.

redis-py connects it (TLS, user, password, database). After that this module sends and parses. A command costs a small
part of its cost on redis-py's pool, where each connection has a lock, a reader and a time-out (docs/decisions.md).
"""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as TimedOut

from milepost.journal import keys
from milepost.journal.connection import GONE, MOVED, end_tasks, pool_of
from milepost.journal.refusals import wrong_server

CLOSED = "the connection was closed"

REPLICATED_WITHIN = 0.5
"""Seconds that replicas may take to confirm a write."""

PROMOTED_WITHIN = 3.0
"""Seconds after a replica has left its primary in which it may turn out to be the new one."""

_MARK = (
    "EVAL",
    "redis.call('XACK', KEYS[1] .. ':none', 'none', '0-0') return redis.call('SET', KEYS[1], '', 'PX', 60000)",
    1,
    keys.REPLICATED,
)
"""A write that is always made, on a full Redis too: see `write_when_full` in lua/common.lua."""

_HISTORY_ID = re.compile(rb"master_replid:(\w+)")
_REPLICA = re.compile(rb"slave\d+:(ip=[^,]+,port=\d+),state=online")


class NotReplicated(RedisError):
    """A failover may undo a write. It was made, and may be made again."""


class Replicas:
    """The replicas of the primary that a connection leads to, as its `INFO replication` names them.

    The primary learns last that a replica was promoted in its place. Until then it takes writes, and its other replicas
    confirm them, but they end with it. So no write counts for PROMOTED_WITHIN seconds after a replica has left.
    """

    def __init__(self) -> None:
        self._history: bytes | None = None
        self._online: frozenset[bytes] = frozenset()
        self._left_at = float("-inf")

    def check(self, info: bytes, now: float) -> None:
        """Raise NotReplicated if a replica has left within the last PROMOTED_WITHIN seconds. `now`: seconds."""
        history, online = _HISTORY_ID.search(info), frozenset(_REPLICA.findall(info))
        if history is None or history[1] != self._history:  # another primary, or one that has started again
            self._history, self._left_at = history and history[1], float("-inf")
        elif self._online - online:
            self._left_at = now
        self._online = online
        if now - self._left_at < PROMOTED_WITHIN:
            raise NotReplicated("a replica has just left the primary, and may have been promoted in its place")


class SharedConnection:
    """Calls the server of `redis`. It connects at the first call, and at the next one after a lost connection.

    A call is sent once more if the connection is lost before the reply, or if the reply has a code of LOOK_AGAIN. So a
    command may run twice. With `again=False` it is sent once. For one event loop.
    """

    def __init__(self, redis: Redis, *, again: bool = True) -> None:
        self._pool = pool_of(redis)
        self._within: float = self._pool.connection_kwargs["socket_timeout"]
        self._again = again
        self._protocol: _RedisProtocol | None = None
        self._opening: asyncio.Task[_RedisProtocol] | None = None
        self._closed = False
        self._replicas = Replicas()

    def call(self, *command: str | bytes | int) -> Awaitable[Any]:
        """Return the reply to one command; texts are bytes.

        Raises RedisError or OSError: ResponseError if Redis refuses, WrongServer if another server must be asked. If
        the caller is cancelled, the command runs all the same.
        """
        return self._call(command)

    def call_replicated(self, replicas: int, *command: str | bytes | int) -> Awaitable[Any]:
        """The reply to one command, once so many replicas have all that this server had written by then.

        If this command found nothing to do, they also have the writes of an earlier, equal one. Redis runs nothing else
        of this connection meanwhile. Raises as `call` does, and NotReplicated.
        """
        return self._call(command, replicas)

    async def _call(self, command: Sequence[str | bytes | int], replicas: int = 0) -> Any:
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # it takes int and bytes too
        tries = 2 if self._again else 1
        while True:
            protocol = await self._connected()
            try:
                return await (self._replicated(protocol, packed, replicas) if replicas else protocol.send(packed))
            except ConnectionLost:
                tries -= 1
                if not tries:
                    raise

    async def _replicated(self, protocol: "_RedisProtocol", packed: bytes, replicas: int) -> Any:
        """Send a command, _MARK, WAIT, and INFO, on one connection: WAIT counts the replicas that have the connection's
        last write, and a script that recognises an event writes nothing.
        """
        commands = (_MARK, ("WAIT", replicas, round(REPLICATED_WITHIN * 1000)), ("INFO", "replication"))
        sent = protocol.send_together([packed, *map(hiredis.pack_command, commands)])  # type: ignore[arg-type]
        replies: list[Any] = await asyncio.gather(*sent, return_exceptions=True)
        for answer in replies:
            if isinstance(answer, BaseException):
                raise answer
        reply, _, confirmed, info = replies
        if confirmed < replicas:
            raise NotReplicated(f"{confirmed} of {replicas} replicas confirmed it within {REPLICATED_WITHIN:g} s")
        self._replicas.check(info, asyncio.get_running_loop().time())
        return reply

    async def _connected(self) -> "_RedisProtocol":
        """Return the connection. If there is none, make one, for all callers that wait."""
        if self._protocol is not None and self._protocol.usable:
            return self._protocol
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

    async def _open(self) -> "_RedisProtocol":
        connection = self._pool.make_connection()
        try:
            await connection.connect()
        except asyncio.CancelledError:
            await connection.disconnect(nowait=True)
            raise
        protocol = _RedisProtocol(*connection.hand_over(), within=self._within)
        self._pool.opened.add(protocol)
        return protocol

    def _opened(self, opening: "asyncio.Task[_RedisProtocol]") -> None:
        self._opening = None
        if opening.cancelled() or opening.exception():
            return
        self._protocol = opening.result()

    async def close(self) -> None:
        """Close the connection. Calls under way and later calls raise ConnectionLost."""
        self._closed = True
        await end_tasks([self._opening] if self._opening else [])
        if self._protocol is not None:
            self._protocol.fail(ConnectionLost(CLOSED))


class _RedisProtocol(asyncio.Protocol):
    """The commands and replies of one connection. A reply that does not come within `within` seconds ends it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, within: float) -> None:
        self.usable = not reader.at_eof()
        self._writer = writer  # which would close the transport when nothing refers to it
        self._transport = writer.transport
        self._within = within
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader(protocolError=ConnectionLost, replyError=_refusal)
        self._awaited: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Write a whole command; return a future of its reply. Raises ConnectionLost if it cannot be written."""
        if not self.usable or self._transport.is_closing():
            self.fail(ConnectionLost(GONE))
            raise ConnectionLost(GONE)
        self._transport.write(packed)
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._awaited.append((reply, self._loop.time() + self._within))
        if self._timer is None:
            self._timer = self._loop.call_later(self._within, self._look)
        return reply

    def send_together(self, packed: Sequence[bytes]) -> list[asyncio.Future[Any]]:
        """Write several commands at once, with nothing between them. Raises as `send` does, and then awaits none."""
        sent = [self.send(b"".join(packed))]
        deadline = self._awaited[-1][1]
        for _ in packed[1:]:
            reply: asyncio.Future[Any] = self._loop.create_future()
            self._awaited.append((reply, deadline))
            sent.append(reply)
        return sent

    def _look(self) -> None:
        """Check the reply that is awaited longest. There is one timer for all."""
        self._timer = None
        if not self._awaited:
            return
        _, deadline = self._awaited[0]
        if deadline <= self._loop.time():
            self.fail(TimedOut(f"no answer within {self._within:g} s"))
        else:
            self._timer = self._loop.call_at(deadline, self._look)

    def fail(self, fault: Exception) -> None:
        """End the connection, and every call that waits for a reply."""
        self.usable = False
        awaited, self._awaited = self._awaited, deque()
        for reply, _ in awaited:
            if not reply.done():
                reply.set_exception(fault)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()

    def leave(self) -> None:
        """End the connection, because another server is to be asked."""
        self.fail(ConnectionLost(MOVED))

    # Called by the event loop

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
            raise ConnectionLost("a reply without a command")
        reply, _ = self._awaited.popleft()
        refusal = wrong_server(answer)
        if refusal is not None:
            if not reply.done():
                reply.set_exception(refusal)
            raise refusal
        if reply.done():
            return
        if isinstance(answer, ResponseError):
            reply.set_exception(answer)
        else:
            reply.set_result(answer)

    def eof_received(self) -> None:
        self.fail(ConnectionLost(GONE))

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(ConnectionLost(f"{GONE}: {exc}" if exc else GONE))


def _refusal(text: str) -> ResponseError:
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)
