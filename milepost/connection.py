"""Connections to Redis: short time-outs, one immediate retry where it can help, and no stay at an old primary.

Every client, shared connection and subscription of ours is made from a `Redis` that `connect` returns. After a failover
a connection may still lead to the old primary. Two rules make all of them follow:

1. A refusal that only another server can lift (`LOOK_AGAIN`) closes the connection on which it came, wherever it
   stands: an error reply, an error inside an array, or text inside a script's answer. The next call connects again.
2. Every two seconds `Watch` opens a new connection and asks who answers. If that is another server than before, it
   closes all older connections, though nothing was refused on them: the old primary may be frozen or cut off.
"""

import asyncio
import logging
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol
from weakref import WeakSet

from redis.asyncio import Redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TimedOut

from milepost.observe.logs import Fields
from milepost.settings import JournalSettings

log = logging.getLogger("milepost")

ANSWER_WITHIN = 5.0
"""Seconds within which Redis answers a command that does not block."""

LEAST_VERSION = (7, 0)
"""The oldest Redis that Milepost is for."""

_CLUSTER = "is a node of a Redis Cluster that does not serve Milepost's keys"

LOOK_AGAIN = {
    "ASK": _CLUSTER,
    "CLUSTERDOWN": _CLUSTER,
    "LOADING": "is loading its data",
    "MASTERDOWN": "is a replica that has lost its primary",
    "MOVED": _CLUSTER,
    "NOAUTH": "asks for a password",
    "NOREPLICAS": "has fewer replicas than it needs to take a write",
    "READONLY": "is a read-only replica",
    "TRYAGAIN": _CLUSTER,
}
"""The codes of refusals that another server, or the same one later, lifts, and what such a server is."""

LOOK_EVERY = 2.0
"""Seconds between two looks at the server to which new connections lead; after a failed one it is LOOK_AGAIN_AFTER."""

LOOK_AGAIN_AFTER = 0.25

LOOK_WITHIN = 2.0
"""Seconds that one look may take."""

LOOK_TRUSTED = 0.2
"""Seconds for which a look is not repeated."""

CANCEL_AGAIN = 0.1
"""Seconds after which a task that was cancelled and has not ended is cancelled again."""

GONE = "Redis closed the connection"
MOVED = "new connections lead to another server"


class WrongServer(ConnectionLost):
    """The server refused for what it is, not for what it was asked. `str()` says it in plain words."""

    def __init__(self, code: str) -> None:
        super().__init__(f"Redis {LOOK_AGAIN[code]}")


def wrong_server(reply: object) -> WrongServer | None:
    """The refusal in this reply that means "look again", or None.

    It may be the reply itself, an error among the items of an array, or the text `error CODE …` among them, which is
    how common.lua answers for one item of a batch.
    """
    if isinstance(reply, list):
        for item in reply:
            if (type(item) is bytes and item.startswith(b"error ")) or isinstance(item, ResponseError):
                code = _code(item)
                if code in LOOK_AGAIN:
                    return WrongServer(code)
    elif isinstance(reply, ResponseError):
        code = _code(reply)
        if code in LOOK_AGAIN:
            return WrongServer(code)
    return None


def _code(refusal: ResponseError | bytes) -> str:
    if isinstance(refusal, bytes):
        return refusal.split(b" ", 2)[1].decode(errors="replace")
    # redis-py takes the code off the text of the errors it knows.
    return getattr(refusal, "status_code", None) or str(refusal).partition(" ")[0]


class Opened(Protocol):
    """A connection that can be told to end."""

    def leave(self) -> None:
        """End it now. Who waits for a reply gets ConnectionLost."""


class _Leaving(AbstractConnection):
    """A connection of redis-py's that is closed by a refusal which means "look again"."""

    async def connect(self) -> None:
        await super().connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)
        except ResponseError as refusal:
            fault = wrong_server(refusal)
            if fault is None:
                raise
            await self.disconnect(nowait=True)
            raise fault from None

    def leave(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()

    @property
    def reader(self) -> StreamReader:
        """The stream of what Redis sends. Raises ConnectionLost."""
        if self._reader is None:
            raise ConnectionLost(GONE)
        return self._reader

    def hand_over(self) -> tuple[StreamReader, StreamWriter]:
        """Give reader and writer away: from here on they are the caller's. Raises ConnectionLost."""
        reader, writer = self._reader, self._writer
        self._reader = self._writer = None
        if reader is None or writer is None:
            raise ConnectionLost(GONE)
        return reader, writer


class _Tcp(_Leaving, Connection):
    pass


class _Tls(_Leaving, SSLConnection):
    pass


class _Unix(_Leaving, UnixDomainSocketConnection):
    pass


_LEAVING = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


class Pool(ConnectionPool):
    """redis-py's pool, which knows every connection that was made from it. `opened` holds them weakly."""

    def __init__(self, connection_class: type[AbstractConnection] = Connection, **given: Any) -> None:
        self.opened: WeakSet[Opened] = WeakSet()
        super().__init__(connection_class=_LEAVING[connection_class], **given)

    def make_connection(self) -> _Leaving:
        connection: _Leaving = super().make_connection()  # type: ignore[no-untyped-call]
        self.opened.add(connection)
        return connection


def pool(redis_url: str, *, answer_within: float = ANSWER_WITHIN, retries: int = 1) -> Pool:
    """A pool for a library that takes one; `connect` for all else. `retries` as there."""
    return Pool.from_url(
        redis_url,
        socket_keepalive=True,
        client_name="milepost",
        socket_timeout=answer_within,
        socket_connect_timeout=min(answer_within, ANSWER_WITHIN),
        retry=Retry(NoBackoff(), retries, supported_errors=(ConnectionLost,)),
    )


def connect(settings: JournalSettings, *, answer_within: float = ANSWER_WITHIN, retries: int = 1) -> Redis:
    """A client on bytes.

    The one retry covers a pooled connection that died unnoticed or leads to a server that is no primary any more: every
    script of ours may run twice. A time-out is not retried, as it would only double the wait.
    Pass `retries=0` for XREADGROUP, whose lost reply would orphan what it carried, and an `answer_within` above its
    block time.
    """
    return Redis.from_pool(pool(settings.redis_url.get_secret_value(), answer_within=answer_within, retries=retries))


def pool_of(redis: Redis) -> Pool:
    """The pool of a client that `connect` made."""
    found = redis.connection_pool
    assert isinstance(found, Pool), "make this client with milepost.connection.connect"  # noqa: S101 - a fault of ours
    return found


class Watch:
    """Looks where new connections lead, for one process. `redis` and the clients that are `add`ed follow it there."""

    def __init__(self, redis: Redis) -> None:
        self._pools = [pool_of(redis)]
        self._server = ""
        self._looking = asyncio.Lock()
        self._fault: RedisError | OSError | None = None
        self._trusted_until = 0.0

    def add(self, *clients: Redis) -> None:
        """Close the connections of these too when new ones lead elsewhere."""
        self._pools += map(pool_of, clients)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            pause = LOOK_AGAIN_AFTER
            with suppress(RedisError, OSError):  # who needs Redis now tells of it
                await self.look()
                pause = LOOK_EVERY
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look again and again while the body runs."""
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            while not task.done():
                task.cancel()  # and again: before Python 3.12 the `wait_for` in redis-py's send can swallow it
                await asyncio.wait([task], timeout=CANCEL_AGAIN)

    async def look(self) -> None:
        """Return if a new connection leads to a primary. Raises RedisError, OSError.

        What one look found stands for LOOK_TRUSTED seconds, for all who ask.
        """
        async with self._looking:
            if time.monotonic() >= self._trusted_until:
                try:
                    await self._look()
                    self._fault = None
                except (RedisError, OSError) as fault:
                    self._fault = fault
                self._trusted_until = time.monotonic() + LOOK_TRUSTED
        if self._fault is not None:
            raise self._fault.with_traceback(None)

    async def _look(self) -> None:
        connection = self._pools[0].make_connection()
        try:
            async with asyncio.timeout(LOOK_WITHIN):
                await connection.connect()
                await connection.send_command("INFO")
                told = _facts(await connection.read_response(disable_decoding=True))
        except ResponseError:  # this user may not ask
            told = {}
        except TimeoutError:
            raise TimedOut(f"no answer within {LOOK_WITHIN:g} s") from None
        finally:
            await connection.disconnect(nowait=True)
        if told.get("role", "master") != "master":
            raise WrongServer("READONLY")
        self._follow(told.get("run_id", ""))

    def _follow(self, server: str) -> None:
        if self._server and server and server != self._server:
            log.warning(Fields(outcome="redis-moved", reason=MOVED))
            for pool in self._pools:
                for opened in list(pool.opened):
                    opened.leave()
        self._server = server or self._server


def _facts(text: Any) -> dict[str, str]:
    """What INFO says, as a mapping."""
    lines = text.decode(errors="replace").splitlines() if isinstance(text, bytes) else []
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}
