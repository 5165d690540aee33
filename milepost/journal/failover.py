"""Follows a failover of Redis: no connection stays at the old primary.

After a failover an open connection may still lead to the old primary. Two rules close it:

1. A connection closes when Redis refuses with a code that concerns the server (milepost.journal.refusals): in an error
   reply, in an error inside an array, or in the text of a script's result. The next call connects again. The
   connections themselves follow this rule.
2. Every two seconds `FailoverWatch` opens a new connection and asks which server answers; each second where Sentinels
   or a Cluster name the server (milepost.journal.servers). If that is another server than before, it closes all older
   connections, though nothing was refused on them: the old primary may be frozen or cut off.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TimedOut

from milepost.journal.connection import MOVED, end_tasks, pool_of
from milepost.journal.refusals import WrongServer
from milepost.observe.logs import Fields

log = logging.getLogger("milepost")

LOOK_EVERY = 2.0
"""Seconds between two looks at the server to which new connections lead; LOOK_AGAIN_AFTER after one that failed."""

LOOK_EVERY_IF_TOLD = 1.0
"""The same where Sentinels or a Cluster say where that is: a failover is over as soon as they do."""

LOOK_AGAIN_AFTER = 0.25

LOOK_WITHIN = 2.0
"""Most seconds that one look may take."""

LOOK_TRUSTED = 0.2
"""Seconds for which the result of a look counts, for all callers."""


class FailoverWatch:
    """Looks to which server new connections lead, for one process. `redis` and clients that are `add`ed follow."""

    def __init__(self, redis: Redis) -> None:
        self._pools = [pool_of(redis)]
        self._server = ""
        self._looking = asyncio.Lock()
        self._fault: RedisError | OSError | None = None
        self._trusted_until = 0.0

    def add(self, *clients: Redis) -> None:
        """Close the connections of these clients too after a failover."""
        self._pools += map(pool_of, clients)

    async def run(self) -> None:
        """Look every LOOK_EVERY seconds, until cancelled."""
        while True:
            pause = LOOK_AGAIN_AFTER
            with suppress(RedisError, OSError):  # callers that need Redis report it
                await self.look()
                pause = LOOK_EVERY_IF_TOLD if self._pools[0].servers else LOOK_EVERY
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run `run` while the body runs."""
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            await end_tasks([task])

    async def look(self) -> None:
        """Return if a new connection leads to a primary, else raise RedisError or OSError.

        The result of one look counts for LOOK_TRUSTED seconds.
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
                await connection.send_command("INFO", "server", "replication")
                facts = _facts(await connection.read_response(disable_decoding=True))
        except ResponseError:  # this user may not ask
            facts = {}
        except TimeoutError:
            raise TimedOut(f"no answer within {LOOK_WITHIN:g} s") from None
        finally:
            await connection.disconnect(nowait=True)
        if facts.get("role", "master") != "master":
            raise WrongServer("READONLY")
        self._follow(facts.get("run_id", ""))

    def _follow(self, server: str) -> None:
        if self._server and server and server != self._server:
            log.warning(Fields(outcome="redis-moved", reason=MOVED))
            for pool in self._pools:
                for opened in list(pool.opened):
                    opened.leave()
        self._server = server or self._server


def _facts(text: Any) -> dict[str, str]:
    """Return the fields of INFO as a mapping."""
    lines = text.decode(errors="replace").splitlines() if isinstance(text, bytes) else []
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}
