"""Connections to Redis: short time-outs, one immediate retry where it helps, and none that stays at an old primary.

Every client, shared connection and subscription is made from a `Redis` that `connect` returns. Only this module uses
private attributes of redis-py: reader, writer and the connection classes of its pool.
"""

from asyncio import StreamReader, StreamWriter
from functools import cache
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
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError

from milepost.journal.refusals import wrong_server
from milepost.journal.servers import Servers, end_tasks, servers_of
from milepost.settings import JournalSettings

__all__ = ["ANSWER_WITHIN", "GONE", "LEAST_VERSION", "MOVED", "Pool", "connect", "end_tasks", "pool", "pool_of"]

ANSWER_WITHIN = 5.0
"""Seconds within which Redis answers a command that does not block."""

LEAST_VERSION = (7, 0)
"""The oldest Redis that Milepost is for."""

GONE = "Redis closed the connection"
MOVED = "new connections lead to another server"


class Opened(Protocol):
    """A connection that can be told to end."""

    def leave(self) -> None:
        """End it now. Calls that wait for a reply raise ConnectionLost."""


class _Leaving(AbstractConnection):
    """A connection of redis-py that closes when Redis refuses with a code of LOOK_AGAIN.

    `servers` finds the server each time that it connects; None: the URL names it.
    """

    host: str
    port: int

    def __init__(self, *, servers: Servers | None = None, **given: Any) -> None:
        self._servers = servers
        self._left = False
        self._own = {name: given[name] for name in given if name in {"username", "password"} or name.startswith("ssl_")}
        super().__init__(**given)

    async def connect(self) -> None:
        while not self.is_connected:
            self._left = False
            if self._servers is not None:
                self.host, self.port = await self._servers.find(self._own)
            await super().connect()  # type: ignore[no-untyped-call]
            if self._left:  # while it connected: it may lead to the old primary
                await self.disconnect(nowait=True)

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        if self._writer is not None and self._writer.transport.is_closing():
            await self.disconnect(nowait=True)  # uvloop raises RuntimeError for a write
        await self.connect()  # redis-py itself would connect to the same server again, and not ask which one it is now
        await super().send_packed_command(*args, **kwargs)

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
        self._left = True
        if self._writer is not None:
            self._writer.transport.abort()

    @property
    def reader(self) -> StreamReader:
        """The stream of bytes from Redis. Raises ConnectionLost."""
        if self._reader is None:
            raise ConnectionLost(GONE)
        return self._reader

    def hand_over(self) -> tuple[StreamReader, StreamWriter]:
        """Return reader and writer, which belong to the caller from now on. Raises ConnectionLost."""
        reader, writer = self._reader, self._writer
        self._reader = self._writer = None
        if reader is None or writer is None:
            raise ConnectionLost(GONE)
        return reader, writer


class _Tcp(_Leaving, Connection):
    pass


class _Tls(_Leaving, SSLConnection):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._own["ssl"] = True


class _Unix(_Leaving, UnixDomainSocketConnection):
    pass


_LEAVING = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


class Pool(ConnectionPool):
    """redis-py's pool, with weak references to every connection that it made, in `opened`.

    `servers` finds the server for each new one; None: the URL names it.
    """

    def __init__(
        self,
        connection_class: type[AbstractConnection] = Connection,
        *,
        servers: Servers | None = None,
        **given: Any,
    ) -> None:
        self.opened: WeakSet[Opened] = WeakSet()
        self.servers = servers
        super().__init__(connection_class=_LEAVING[connection_class], servers=servers, **given)

    def make_connection(self) -> _Leaving:
        connection: _Leaving = super().make_connection()  # type: ignore[no-untyped-call]
        self.opened.add(connection)
        return connection


@cache
def _driver() -> DriverInfo:
    """Return the name of redis-py for CLIENT SETINFO. A connection without it reads the package's metadata again."""
    return DriverInfo()


def pool(redis_url: str, *, answer_within: float = ANSWER_WITHIN, retries: int = 1) -> Pool:
    """Return a pool, for a library that takes one. For all else there is `connect`, which explains `retries`."""
    url, servers = servers_of(redis_url)
    return Pool.from_url(
        url.plain,
        servers=servers,
        client_name="milepost",
        driver_info=_driver(),
        socket_timeout=answer_within,
        socket_connect_timeout=min(answer_within, ANSWER_WITHIN),
        retry=Retry(NoBackoff(), retries, supported_errors=(ConnectionLost,)),
    )


def connect(settings: JournalSettings, *, answer_within: float = ANSWER_WITHIN, retries: int = 1) -> Redis:
    """Return a client whose replies are bytes.

    The one retry helps if a pooled connection was closed, or leads to a server that is no primary any more. Scripts may
    run twice. A time-out is not retried: that would only double the wait.
    For XREADGROUP pass `retries=0`, because a second read does not bring the entries of a lost reply, and an
    `answer_within` above its block time.
    """
    return Redis.from_pool(pool(settings.redis_url.get_secret_value(), answer_within=answer_within, retries=retries))


def pool_of(redis: Redis) -> Pool:
    """Return the pool of a client that `connect` made."""
    found = redis.connection_pool
    assert isinstance(found, Pool), "make this client with milepost.journal.connection.connect"  # noqa: S101 - a fault of ours
    return found
