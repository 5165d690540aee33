"""Find the server that has our keys: the primary that the Sentinels name, or the owner of our slot in a Cluster.

Every connection asks before it is made (milepost.journal.connection), so each new one leads to the newest primary:

1. All Sentinels, or some nodes of the Cluster, are asked at once.
2. Answers are awaited until more than half of those asked have answered, or for ASK_WITHIN.
3. The answer of the latest epoch counts: each failover and each move of our slot begins a new one. So an answer from a
   part of the network that has missed the failover is not followed where another can be had.
4. For OLDER_WITHIN after an answer, one of an earlier epoch is not followed: other Sentinels may learn of the failover
   some seconds later, and the old primary takes writes until then.
5. A Sentinel that holds the primary to be down names none: its clients wait for the failover.
6. If none of them answers, the last server found is used. It says itself if it is no primary any more.
"""

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.cluster import parse_cluster_slots
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as ConnectionLost

from milepost.journal import keys
from milepost.settings import RedisUrl, ServerAddress, read_redis_url

ASK_WITHIN = 1.0
"""Seconds for one server to answer where the primary is."""

OLDER_WITHIN = 30.0
"""Seconds for which the newest answer stands against older ones. Later ones count: somebody may have set the Sentinels
up anew, and their epochs begin again.
"""

CANCEL_AGAIN = 0.1
"""Seconds after which a task that was cancelled and has not ended is cancelled again."""

MOST_ASKED = 5
"""Nodes of a Cluster asked at once. If none of them answers, others are."""

SLOT = key_slot(keys.JOURNALS.encode())
"""The slot of all our keys."""

Options = Mapping[str, Any]
"""Arguments for a client of redis-py: user, password and TLS of the URL."""


class ServerView(NamedTuple):
    """The answer of one server; a greater `epoch` is newer. No address: it knows no primary, and `reason` says why."""

    epoch: tuple[int, ...]
    address: ServerAddress | None
    reason: str = ""


class Servers:
    """Those that one URL names. One object serves all connections of a process, on any event loop."""

    what = "server"

    def __init__(self, url: RedisUrl) -> None:
        self.url = url
        self._last: ServerAddress | None = None
        self._newest: ServerView | None = None
        self._newest_at = 0.0

    async def find(self, options: Options) -> ServerAddress:
        """The address of the server that has our keys. Raises RedisError."""
        faults: list[str] = []
        for group in self._groups():
            answers = await self._ask_all(group, options, faults)
            if answers:
                newest = self._newest_of(answers, time.monotonic())
                if newest.address is None:
                    raise ConnectionLost(newest.reason)
                self._last = newest.address
                return newest.address
        if self._last is None:
            raise ConnectionLost(f"no {self.what} answers: {'; '.join(sorted(set(faults)))}")
        return self._last

    def _newest_of(self, answers: Iterable[ServerView], now: float) -> ServerView:
        """Return the answer of the latest epoch, among these and those of the last OLDER_WITHIN. `now`: seconds."""
        newest = max(answers, key=lambda answer: answer.epoch)
        if self._newest and newest.epoch < self._newest.epoch and now < self._newest_at + OLDER_WITHIN:
            return self._newest
        self._newest, self._newest_at = newest, now
        return newest

    async def _ask_all(self, servers: Sequence[ServerAddress], options: Options, faults: list[str]) -> list[ServerView]:
        pending = {asyncio.create_task(self._ask(server, options)) for server in servers}
        for task in pending:  # one may fail when the others have decided: asyncio is not to report that
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        answers: list[ServerView] = []
        end = asyncio.get_running_loop().time() + ASK_WITHIN
        try:
            while pending and len(answers) * 2 <= len(servers):
                left = end - asyncio.get_running_loop().time()
                done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    faults.append("no answer in time")
                    break
                for task in done:
                    if (fault := task.exception()) is None:
                        answers.append(task.result())
                    else:  # also of a server whose answer is in another form: the others count
                        is_told = isinstance(fault, RedisError | OSError) and str(fault)
                        faults.append(str(fault) if is_told else f"{type(fault).__name__} at its answer")
        finally:
            await end_tasks(pending)
        return answers

    def _groups(self) -> Iterable[Sequence[ServerAddress]]:
        raise NotImplementedError

    async def _ask(self, server: ServerAddress, options: Options) -> ServerView:
        raise NotImplementedError


class Sentinels(Servers):
    """They watch a primary and its replicas, and promote a replica when the primary is down."""

    what = "Sentinel"

    def _groups(self) -> Iterable[Sequence[ServerAddress]]:
        yield self.url.servers

    async def _ask(self, server: ServerAddress, options: Options) -> ServerView:
        own = {"username": None, "password": None} | dict(self.url.sentinel)
        try:
            return await self._ask_as(server, {**options, **own})
        except AuthenticationError:
            if self.url.sentinel or not options.get("password"):
                raise
            return await self._ask_as(server, options)  # many have the password of Redis

    async def _ask_as(self, server: ServerAddress, options: Options) -> ServerView:
        sentinel = Sentinel([server], sentinel_kwargs=_quick(options))  # type: ignore[no-untyped-call]
        (states,) = await _replies(sentinel.sentinels[0], "SENTINEL MASTERS")
        state = states.get(self.url.service)
        if state is None:
            return ServerView((-1,), None, f"the Sentinels know no service {self.url.service!r}")
        epoch = (int(state["config-epoch"]),)
        if not sentinel.check_master_state(state, self.url.service):
            return ServerView(epoch, None, f"the Sentinels hold the primary of {self.url.service!r} to be down")
        return ServerView(epoch, ServerAddress(state["ip"], int(state["port"])))


class Cluster(Servers):
    """Nodes that share the slots."""

    what = "node of the Cluster"

    def __init__(self, url: RedisUrl) -> None:
        super().__init__(url)
        self._known: list[ServerAddress] = []
        """Nodes that an answer named: those of our slot first."""

    def _groups(self) -> Iterable[Sequence[ServerAddress]]:
        nodes = [*dict.fromkeys([*self._known[:2], *self.url.servers[:2], *self._known, *self.url.servers])]
        for begin in range(0, len(nodes), MOST_ASKED):
            yield nodes[begin : begin + MOST_ASKED]

    async def _ask(self, server: ServerAddress, options: Options) -> ServerView:
        node = Redis(host=server.host, port=server.port, **_quick(options))
        facts, owners = await _replies(node, "CLUSTER INFO", "CLUSTER SLOTS")
        slots = parse_cluster_slots(owners, current_host=server.host)
        epoch = (facts["cluster_state"] == "ok", int(facts["cluster_current_epoch"]))
        shards = [(first <= SLOT <= last, shard) for (first, last), shard in slots.items()]
        shards.sort(key=lambda shard: not shard[0])
        self._known = [
            *dict.fromkeys(
                ServerAddress(host, port)
                for _, shard in shards
                for host, port in [shard["primary"], *shard["replicas"]]
            )
        ]
        if not shards or not shards[0][0]:
            return ServerView(epoch, None, f"no node of the Cluster serves slot {SLOT}, which has Milepost's keys")
        return ServerView(epoch, ServerAddress(*shards[0][1]["primary"]))


async def end_tasks(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they end: before Python 3.12 the `wait_for` in redis-py's send can swallow a cancellation."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=CANCEL_AGAIN)


async def _replies(client: Redis, *commands: str) -> list[Any]:
    """Ask on a connection that is closed at the end, also when this is cancelled: redis-py would leave it open."""
    connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.connect()
        replies = []
        for command in commands:
            await connection.send_command(*command.split())
            replies.append(await client.parse_response(connection, command))
        return replies
    finally:
        await connection.disconnect(nowait=True)


def _quick(options: Options) -> dict[str, Any]:
    """Options for a client that asks once, for ASK_WITHIN."""
    return {
        **options,
        "socket_timeout": ASK_WITHIN,
        "socket_connect_timeout": ASK_WITHIN,
        "retry": Retry(NoBackoff(), 0),
    }


@cache
def servers_of(text: str) -> tuple[RedisUrl, Servers | None]:
    """Return the URL's parts, and the Servers that find its server (None: it names the server). Raises ValueError."""
    url = read_redis_url(text)
    kinds: Mapping[str, type[Servers]] = {"sentinel": Sentinels, "cluster": Cluster}
    return url, kinds[url.kind](url) if url.kind in kinds else None
