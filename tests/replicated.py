"""Replicated Redis in tests: a primary with replicas and Sentinels, and a Cluster. Each server is a process."""

import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from milepost.journal import keys
from tests.servers import HOST, WITHIN, Valkey, free_port, wait_for

SERVICE = "milepost"

DOWN_AFTER = 1000
"""Milliseconds of silence after which a Sentinel holds a server to be down."""

QUICK = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1", "repl-timeout": "10"}
"""Replicas are in step soon after they were told to be replicas."""

SLOT = key_slot(keys.JOURNALS.encode())


def tell(server: Valkey, *command: Any, within: float = WITHIN) -> Any:
    """The reply to one command. Raises redis.ConnectionError, or redis.TimeoutError after so many seconds."""
    with redis.Redis(HOST, server.port, socket_timeout=within, protocol=2, retry=Retry(NoBackoff(), 0)) as client:
        client.response_callbacks.clear()
        return client.execute_command(*command)


def ask(server: Valkey, *command: Any) -> Any:
    """The reply to one command, or None while the server does not answer."""
    try:
        return tell(server, *command, within=1)
    except (redis.ConnectionError, redis.TimeoutError):
        return None


def ask_again(server: Valkey, *command: Any) -> Any:
    """The reply to a command that may be repeated, once the server answers."""
    replies: list[Any] = []

    def answered() -> bool:
        reply = ask(server, *command)
        if reply is not None:
            replies.append(reply)
        return bool(replies)

    wait_for(answered, what=f"an answer to {command[:2]}")
    return replies[0]


def facts(server: Valkey) -> Mapping[str, str]:
    """Its INFO about replication."""
    lines = (ask(server, "INFO", "replication") or b"").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def is_primary(server: Valkey) -> bool:
    return facts(server).get("role") == "master"


def sentinel(kind: type[Valkey], folder: Path, watches: Valkey, *lines: str) -> Valkey:
    """A Sentinel of the same kind, not started yet, that watches a primary. `lines`: more of its configuration."""
    config = [
        f"bind {HOST}",
        f"sentinel monitor {SERVICE} {HOST} {watches.port} 2",
        f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}",
        f"sentinel failover-timeout {SERVICE} 2000",
        f"sentinel parallel-syncs {SERVICE} 2",
        *lines,
    ]

    class Sentinel(kind):  # type: ignore[valid-type, misc]
        name = "sentinel"

        def argv(self) -> list[str]:
            path = self.folder / "sentinel.conf"
            if not path.exists():  # it writes its own state there
                path.write_text("\n".join([f"port {self.port}", f"dir {self.folder}", *config, ""]))
            return [self.binary(), str(path), "--sentinel"]

        def is_ready(self) -> bool:
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
                return True  # without a password it may refuse a PING
            return False

    return Sentinel(folder)


class Watched:
    """A primary, two replicas and three Sentinels."""

    name = "redis"
    log = ""

    def __init__(
        self,
        folder: Path,
        kind: type[Valkey] = Valkey,
        options: Mapping[str, str] | None = None,
        *,
        down_after: int = DOWN_AFTER,
    ) -> None:
        self.servers = [kind(folder, options={**QUICK, **(options or {})}) for _ in range(3)]
        line = f"sentinel down-after-milliseconds {SERVICE} {down_after}"
        self.sentinels = [sentinel(kind, folder, self.servers[0], line) for _ in range(3)]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'{HOST}:{one.port}' for one in self.sentinels)}/{SERVICE}"

    @property
    def primary(self) -> Valkey:
        """The one that the Sentinels name."""
        for one in self.sentinels:
            if one.alive and (named := ask(one, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)):
                return next(server for server in self.servers if server.port == int(named[1]))
        return next(server for server in self.servers if is_primary(server))

    def is_decided(self) -> bool:
        """Whether the primary is one, and more than half of the Sentinels name it: so clients find it."""
        primary = self.primary
        named = [ask(one, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE) for one in self.sentinels]
        agree = sum(int(address[1]) == primary.port for address in named if address)
        return agree * 2 > len(self.sentinels) and is_primary(primary)

    @property
    def replicas(self) -> Sequence[Valkey]:
        primary = self.primary
        return [server for server in self.servers if server is not primary]

    @property
    def alive(self) -> bool:
        return any(server.alive for server in self.servers)

    def launch(self) -> None:
        """Start the servers without waiting."""
        for server in self.servers:
            server.launch()

    def is_ready(self) -> bool:
        """Connect them, start the Sentinels, and wait until all know each other."""
        first, *others = self.servers
        wait_for(lambda: all(server.is_ready() for server in self.servers), what="the servers answer")
        for server in others:
            tell(server, "REPLICAOF", HOST, first.port)
        wait_for(lambda: self.in_step(2), what="replicas")
        for one in self.sentinels:
            one.launch()
        wait_for(self.complete, what="the Sentinels know each other")
        return True

    def in_step(self, count: int) -> bool:
        """Whether so many replicas follow the primary."""
        told = facts(self.primary)
        return sum("state=online" in told.get(f"slave{n}", "") for n in range(len(self.servers))) >= count

    def complete(self) -> bool:
        """Whether each Sentinel knows the others and both replicas, and could begin a failover."""
        return all(_is_complete(ask(one, "SENTINEL", "MASTER", SERVICE)) for one in self.sentinels)

    def close(self) -> None:
        for server in [*self.sentinels, *self.servers]:
            server.kill()


def _is_complete(state: Any) -> bool:
    told = dict(zip(state[::2], state[1::2], strict=True)) if state else {}
    return (told.get(b"num-other-sentinels"), told.get(b"num-slaves"), told.get(b"flags")) == (b"2", b"2", b"master")


class RedisCluster:
    """Three primaries with a replica each. `owner` has our slot, `twin` is its replica, `other` another primary."""

    name = "redis"
    log = ""

    def __init__(self, folder: Path, kind: type[Valkey] = Valkey, options: Mapping[str, str] | None = None) -> None:
        self.nodes: list[Valkey] = []
        self._bus: list[int] = []
        for _ in range(6):
            bus = free_port()
            cluster = {"cluster-enabled": "yes", "cluster-port": str(bus), "cluster-node-timeout": str(DOWN_AFTER)}
            self.nodes.append(kind(folder, options={**QUICK, **cluster, **(options or {})}))
            self._bus.append(bus)
        self.other, self.owner, self.third, _, self.twin, _ = self.nodes  # the slot is among the last of them

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'{HOST}:{node.port}' for node in self.nodes[:3])}"

    @property
    def alive(self) -> bool:
        return any(node.alive for node in self.nodes)

    def launch(self) -> None:
        """Start the nodes without waiting."""
        for node in self.nodes:
            node.launch()

    def is_ready(self) -> bool:
        """Make a Cluster of them, and wait until it serves."""
        wait_for(lambda: all(node.is_ready() for node in self.nodes), what="the nodes answer")
        for node, slots in zip(self.nodes, ((0, 5000), (10_000, 16_383), (5001, 9999)), strict=False):
            tell(node, "CLUSTER", "ADDSLOTSRANGE", *slots)
        for node, bus in zip(self.nodes[1:], self._bus[1:], strict=True):
            tell(self.nodes[0], "CLUSTER", "MEET", HOST, node.port, bus)
        wait_for(lambda: all(len(ids_of(node)) == len(self.nodes) for node in self.nodes), what="all nodes have met")
        for primary, replica in zip(self.nodes[:3], self.nodes[3:], strict=True):
            tell(replica, "CLUSTER", "REPLICATE", id_of(primary))
        wait_for(self.complete, what="the Cluster is complete")
        return True

    def complete(self) -> bool:
        """Whether every node serves, and every replica is connected."""
        served = all(b"cluster_state:ok" in (ask(node, "CLUSTER", "INFO") or b"") for node in self.nodes)
        linked = [facts(node).get("master_link_status", "up") for node in self.nodes]
        return (
            served and linked == ["up"] * len(self.nodes) and sum(map(is_primary, self.nodes)) == len(self.nodes) // 2
        )

    def other_primary(self, than: Valkey) -> Valkey:
        """A primary that is not this one."""
        return next(node for node in self.nodes if node is not than and is_primary(node))

    def replica_of(self, primary: Valkey) -> Valkey:
        return next(node for node in self.nodes if facts(node).get("master_port") == str(primary.port))

    def is_known_as_owner(self, owner: Valkey) -> bool:
        """Whether all nodes name this one as the owner of our slot: some know a change only by the gossip of others."""
        return all(
            primary[1] == owner.port
            for node in self.nodes
            for first, last, primary, *_ in ask(node, "CLUSTER", "SLOTS") or [(SLOT, SLOT, (b"", 0))]
            if first <= SLOT <= last
        )

    @property
    def now_owner(self) -> Valkey | None:
        """The node that holds itself to own our slot, of the latest epoch where two do; None: no such node answers."""
        found = [
            (int(_field(node, "cluster_my_epoch")), number)
            for number, node in enumerate(self.nodes)
            if is_primary(node)
            for first, last, primary, *_ in ask(node, "CLUSTER", "SLOTS") or ()
            if first <= SLOT <= last and primary[1] == node.port
        ]
        return self.nodes[max(found)[1]] if found else None

    def move(
        self, source: Valkey, target: Valkey, pause: Callable[[], None] = lambda: None, *, at_once: int = 100
    ) -> None:
        """Move our slot to another primary, as redis-cli does. `pause` is called after each `at_once` keys."""
        ask_again(target, "CLUSTER", "SETSLOT", SLOT, "IMPORTING", id_of(source))
        ask_again(source, "CLUSTER", "SETSLOT", SLOT, "MIGRATING", id_of(target))
        while found := ask_again(source, "CLUSTER", "GETKEYSINSLOT", SLOT, at_once):
            ask_again(source, "MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *found)
            pause()
        for node in (target, source, *self.nodes):
            if is_primary(node):
                ask_again(node, "CLUSTER", "SETSLOT", SLOT, "NODE", id_of(target))

    def close(self) -> None:
        for node in self.nodes:
            node.kill()


def _field(node: Valkey, name: str) -> str:
    lines = (ask(node, "CLUSTER", "INFO") or b"").decode().splitlines()
    return dict(line.split(":", 1) for line in lines).get(name, "-1")


def id_of(node: Valkey) -> bytes:
    """The name of a node in its Cluster."""
    return bytes(ask_again(node, "CLUSTER", "MYID"))


def ids_of(node: Valkey) -> list[bytes]:
    """The names of all nodes that it knows."""
    return [line.split()[0] for line in (ask(node, "CLUSTER", "NODES") or b"").splitlines()]
