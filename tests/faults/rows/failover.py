"""A Redis that fails over: Sentinels with a primary and two replicas, and a Cluster of three with a replica each.

Each row about a failover runs twice: with REPLICAS=1, where nothing that was accepted may be lost, and without, where
the loss is shown.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any

from tests.faults.history import Operation
from tests.faults.load import Acceptance
from tests.faults.registry import fault
from tests.faults.run import Run
from tests.replicated import SERVICE, RedisCluster, Watched, ask, tell
from tests.servers import HOST, REDIS_SERVER, Redis, Valkey, eventually, free_port

KIND: type[Valkey] = Redis if REDIS_SERVER else Valkey
"""Debian's Redis where it is installed."""

BEHIND = 2.0
"""Seconds that the replicas are behind."""


class Sentinels(Watched):
    def __init__(self, folder: Path, options: dict[str, str]) -> None:
        super().__init__(folder, KIND, options)


class Nodes(RedisCluster):
    def __init__(self, folder: Path, options: dict[str, str]) -> None:
        super().__init__(folder, KIND, options)


Act = Callable[[Run], Awaitable[None]]


def failover(name: str, redis: type[Any]) -> Callable[[Act], Act]:
    """Make the function below two rows. Each has a twin with events waiting."""

    def register(act: Act) -> Act:
        fault(f"{name}, REPLICAS=1", redis=redis, bridge={"REPLICAS": "1"}, twin=True)(act)
        fault(f"{name}, without REPLICAS", redis=redis, unconfirmed=True, twin=True)(act)
        return act

    return register


async def another_primary(run: Run, old: Valkey) -> None:
    """Wait until the servers have agreed on another primary."""
    redis: Any = run.stack.redis

    def decided() -> bool:
        named = redis.primary if isinstance(redis, Watched) else redis.now_owner
        return named is not None and named is not old

    await eventually(lambda: asyncio.to_thread(decided), what="another primary")
    run.decided = time.monotonic()
    run.stack.history.add(Operation("failover", run.began, run.decided))


def primary(run: Run) -> Valkey:
    redis: Any = run.stack.redis
    found: Valkey = redis.primary if isinstance(redis, Watched) else redis.now_owner
    return found


@failover("Sentinels: the primary killed", Sentinels)
@failover("Cluster: the primary killed", Nodes)
async def killed(run: Run) -> None:
    """It comes back as a replica: in the Cluster there is no other that could confirm."""
    old = primary(run)
    await run.stack.down(old, SIGKILL)
    await another_primary(run, old)
    await run.stack.up(old)


@failover("Sentinels: the primary frozen, and back as a second one", Sentinels)
@failover("Cluster: the primary frozen, and back as a second one", Nodes)
async def frozen(run: Run) -> None:
    old = primary(run)
    run.stack.freeze(old)
    await another_primary(run, old)
    await asyncio.sleep(1)
    run.stack.thaw(old)


@failover("Sentinels: the replicas 2 s behind when the primary dies", Sentinels)
async def behind(run: Run) -> None:
    redis: Any = run.stack.redis
    old = redis.primary
    nobody = free_port()
    for replica in redis.replicas:
        tell(replica, "REPLICAOF", HOST, nobody)
    await asyncio.sleep(BEHIND)
    await run.stack.down(old, SIGKILL)
    await another_primary(run, old)
    await run.stack.up(old)


@failover("Sentinels: planned", Sentinels)
async def planned(run: Run) -> None:
    redis: Any = run.stack.redis
    old = redis.primary
    tell(redis.sentinels[0], "SENTINEL", "FAILOVER", SERVICE)
    await another_primary(run, old)


@fault("Sentinels: planned, writes paused before it", redis=Sentinels, twin=True)
async def planned_with_a_pause(run: Run) -> None:
    """As docs/operations.md says. Nothing is lost, without REPLICAS too."""
    old = primary(run)
    tell(old, "CLIENT", "PAUSE", 10_000, "WRITE")
    await planned(run)


@failover("Cluster: planned", Nodes)
async def planned_in_cluster(run: Run) -> None:
    redis: Any = run.stack.redis
    old = redis.now_owner
    tell(redis.nodes[redis.nodes.index(old) + 3], "CLUSTER", "FAILOVER")
    await another_primary(run, old)


@failover("Cluster: the slot moved to another node", Nodes)
async def moved(run: Run) -> None:
    redis: Any = run.stack.redis
    old = redis.now_owner
    target = next(node for node in redis.nodes[:3] if node is not old)
    began = time.monotonic()
    await asyncio.to_thread(redis.move, old, target)
    run.notes.append(f"the move took {time.monotonic() - began:.1f} s")
    await another_primary(run, old)


@fault("Sentinels: all three gone", redis=Sentinels, bridge={"REPLICAS": "1"}, twin=True)
async def without_sentinels(run: Run) -> None:
    """Connections are made anew all the same."""
    redis: Any = run.stack.redis
    now = redis.primary
    await asyncio.gather(*(run.stack.down(sentinel, SIGKILL) for sentinel in redis.sentinels))
    run.decided = time.monotonic()
    for _ in range(3):
        tell(now, "CLIENT", "KILL", "TYPE", "normal")
        await asyncio.sleep(1)


@fault("Sentinels: both replicas gone for 3 s", redis=Sentinels, bridge={"REPLICAS": "1"}, twin=True)
async def without_replicas(run: Run) -> None:
    redis: Any = run.stack.redis
    replicas = redis.replicas
    await asyncio.gather(*(run.stack.down(replica, SIGKILL) for replica in replicas))
    await asyncio.sleep(3)
    now = redis.primary
    await asyncio.gather(*(run.stack.up(replica) for replica in replicas))
    for replica in replicas:  # a configuration file would say so
        tell(replica, "REPLICAOF", HOST, now.port)
    run.decided = time.monotonic()


@fault(
    "Sentinels: the primary killed, plain messages lost meanwhile are shown",
    redis=Sentinels,
    bridge={"REPLICAS": "1"},
    twin=True,
)
async def plain_messages(run: Run) -> None:
    redis: Any = run.stack.redis
    old = redis.primary
    heard = 0

    async def publish() -> None:
        nonlocal heard
        for number in range(200):
            plain = run.load.new(f"plain{number}@example.org")
            plain.acceptance = Acceptance.UNANSWERED
            attempt = Operation("publish", time.monotonic(), by="plain message", to=plain.email, line=plain.line)
            run.stack.history.add(attempt)
            reached = await asyncio.to_thread(ask, redis.primary, "PUBLISH", "raw_input", json.dumps(plain.body))
            heard += bool(reached)
            await asyncio.sleep(0.05)

    publishing = asyncio.create_task(publish())
    await asyncio.sleep(1)
    await run.stack.down(old, SIGKILL)
    await another_primary(run, old)
    await publishing
    seconds = await run.metric(run.stack.bridge, "milepost_leaderless_seconds_total")
    run.notes.append(f"200 plain messages, {heard} with a subscriber; the bridge had no leader for {seconds:.1f} s")
