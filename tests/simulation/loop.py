"""An event loop whose clock is virtual, and a network inside it.

When nothing is ready the loop does not wait: its clock jumps to the next timer. Every connection that code under test
opens with `create_connection` leads to a listener in the same process, and each chunk of bytes arrives after a delay
that the seed decides. So a run is a function of its seed.
"""

import asyncio
import os
import random
import selectors
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, tzinfo
from itertools import count
from typing import Any, Protocol, Self
from unittest.mock import patch

from milepost.bridge.http.connection import Connection
from milepost.events import event, ids

EPOCH = 1_800_000_000.0
"""Seconds since 1970 when the loop's clock shows 0."""

owner: ContextVar[str] = ContextVar("owner", default="")
"""The component whose task runs: a bridge or a client. Its tasks and connections end together in a crash."""


class _Task(asyncio.Task[Any]):
    """A task whose place in a set depends on its number and not on its address."""

    _numbers = count()

    def __new__(cls, *_: Any, **__: Any) -> Self:
        task = super().__new__(cls)
        task.number = next(cls._numbers)
        return task

    number: int

    def __hash__(self) -> int:
        return self.number


class _Future(asyncio.Future[Any]):
    """The same for a future."""

    _numbers = count()

    def __new__(cls, *_: Any, **__: Any) -> Self:
        future = super().__new__(cls)
        future.number = next(cls._numbers)
        return future

    number: int

    def __hash__(self) -> int:
        return self.number


class StuckError(AssertionError):
    """Nothing is ready and no timer is set: the run would wait for ever."""


class _Jump(selectors.SelectSelector):
    """Instead of waiting for sockets it moves the clock by the time that the loop would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise StuckError
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`network` is where its connections lead. `tasks` are those of each owner."""

    def __init__(self, rng: random.Random) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self.network = Network(self, rng)
        self.tasks: dict[str, list[asyncio.Task[Any]]] = {}
        self.faults: list[str] = []
        _Task._numbers = count()
        _Future._numbers = count()
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]
        self.set_exception_handler(self._note_fault)

    def time(self) -> float:
        return self._jump.now

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def run_in_executor(self, _: Any, function: Callable[..., Any], *given: Any) -> asyncio.Future[Any]:
        """Call it at once: when a thread ends depends on the machine. redis-py looks host names up in one."""
        future = self.create_future()
        try:
            future.set_result(function(*given))
        except (OSError, ValueError) as fault:
            future.set_exception(fault)
        return future

    def _make_task(self, _: asyncio.AbstractEventLoop, coroutine: Any, **given: Any) -> asyncio.Task[Any]:
        task = _Task(coroutine, loop=self, **given)
        self.tasks.setdefault(owner.get(), []).append(task)
        return task

    def _note_fault(self, _: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        self.faults.append(f"{context['message']}: {context.get('exception')!r}")

    async def create_connection(  # type: ignore[override]
        self, factory: Callable[[], asyncio.Protocol], host: str, *_: Any, **__: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        return await self.network.connect(factory, host)

    async def crash(self, name: str) -> None:
        """End a component as SIGKILL does: nothing that it still says is heard, and all of its tasks end."""
        self.network.silence(name)
        tasks = [task for task in self.tasks.pop(name, []) if not task.done()]
        while tasks:
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0)
            tasks = [task for task in [*tasks, *self.tasks.pop(name, [])] if not task.done()]


class Session(Protocol):
    """The server's end of a connection."""

    def received(self, data: bytes) -> None: ...

    def lost(self) -> None: ...


Listener = Callable[["Wire"], Session]


class Network:
    """Connections between components and listeners, which are named by host."""

    def __init__(self, loop: VirtualLoop, rng: random.Random) -> None:
        self.loop = loop
        self.listeners: dict[str, Listener] = {}
        self.refusing: set[str] = set()
        """Hosts that refuse new connections."""
        self.stalled: dict[tuple[str, str], float] = {}
        """Owner and host → until when bytes between them are held up."""
        self.flaky: dict[tuple[str, str], float] = {}
        """Owner and host → with which probability a chunk of bytes is lost, and its connection with it."""
        self._rng = rng
        self._wires: list[Wire] = []
        self._silent: set[str] = set()

    def delay(self) -> float:
        """Seconds that a chunk of bytes takes: mostly below 3 ms, one in 50 up to 0.3 s."""
        return self._rng.uniform(0.0002, 0.003 if self._rng.random() < 0.98 else 0.3)

    def arrival(self, name: str, host: str) -> float:
        """When bytes sent now between these two arrive."""
        return max(self.loop.time(), self.stalled.get((name, host), 0.0)) + self.delay()

    def loses(self, name: str, host: str) -> bool:
        return self._rng.random() < self.flaky.get((name, host), 0.0)

    async def connect(
        self, factory: Callable[[], asyncio.Protocol], host: str
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        name = owner.get()
        await asyncio.sleep(self.arrival(name, host) - self.loop.time())
        if host in self.refusing or name in self._silent:
            raise ConnectionRefusedError(f"{host} refuses")
        protocol = factory()
        wire = Wire(self, name, host, protocol)
        wire.session = self.listeners[host](wire)
        self._wires = [known for known in self._wires if not known.is_closing()] + [wire]
        protocol.connection_made(wire)
        return wire, protocol

    def cut(self, *, name: str | None = None, host: str | None = None) -> None:
        """Break connections: bytes that are under way are lost, and both ends find out."""
        for wire in list(self._wires):
            if name in {None, wire.owner} and host in {None, wire.host}:
                wire.cut()

    def silence(self, name: str) -> None:
        """Break the connections of a component, and let it make no other."""
        self._silent.add(name)
        self.cut(name=name)


class Wire(asyncio.Transport):
    """One connection. It is the client's transport; the server's end is `session`."""

    session: Session

    def __init__(self, network: Network, name: str, host: str, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.owner = name
        self.host = host
        self._network = network
        self._protocol = protocol
        self._closing = False
        self._broken = False
        self._next = [0.0, 0.0]

    def _send(self, way: int, step: Callable[[], None]) -> None:
        """Take a step at the other end, in the order of sending."""
        if self._network.loses(self.owner, self.host):
            self.cut()
        at = max(self._network.arrival(self.owner, self.host), self._next[way])
        self._next[way] = at + 1e-6
        self._network.loop.call_at(at, step)

    # the client's end

    def write(self, data: Any) -> None:
        chunk = bytes(data)

        def arrive() -> None:
            if not self._broken:
                self.session.received(chunk)

        if not self._closing:
            self._send(0, arrive)

    def writelines(self, chunks: Any) -> None:
        self.write(b"".join(chunks))

    def abort(self) -> None:
        self._end(None)

    def close(self) -> None:
        self._end(None)

    def cut(self) -> None:
        """Break it. Bytes that were sent and have not arrived are lost, in both directions."""
        if self._broken:
            return
        self._broken = True
        self._end(ConnectionResetError("reset"))

    def _end(self, fault: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._network.loop.call_soon(self._protocol.connection_lost, fault)
            self._send(0, self.session.lost)

    def is_closing(self) -> bool:
        return self._closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, _: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """A chunk that has arrived is delivered all the same."""

    def resume_reading(self) -> None:
        """See pause_reading."""

    # the server's end

    def reply(self, data: bytes) -> None:
        def arrive() -> None:
            if not self._closing:
                self._protocol.data_received(data)  # type: ignore[attr-defined]

        self._send(1, arrive)

    def hang_up(self) -> None:
        """The server closes the connection."""

        def arrive() -> None:
            if not self._closing:
                self._protocol.eof_received()  # type: ignore[attr-defined]
                self._end(None)

        self._send(1, arrive)


@contextmanager
def deterministic(loop: VirtualLoop, rng: random.Random) -> Iterator[None]:
    """Clocks show the loop's time, and everything random comes from `rng`."""

    class Moment(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Moment":
            return cls.fromtimestamp(EPOCH + loop.time(), tz or UTC)

    with ExitStack() as patches:
        for name in ("monotonic", "perf_counter"):
            patches.enter_context(patch.object(time, name, loop.time))
        patches.enter_context(patch.object(time, "time", lambda: EPOCH + loop.time()))
        patches.enter_context(patch.object(os, "urandom", rng.randbytes))
        patches.enter_context(patch.object(os, "getpid", lambda: 1))
        patches.enter_context(patch.object(socket, "gethostname", lambda: "host"))
        patches.enter_context(patch.object(socket, "getaddrinfo", side_effect=socket.gaierror("no names here")))
        patches.enter_context(patch.object(event, "datetime", Moment))
        patches.enter_context(patch.object(ids, "uuid7", lambda: uuid.UUID(bytes=rng.randbytes(16), version=4)))
        # The client keeps its connections in a set; without this their order would depend on addresses.
        patches.enter_context(patch.object(Connection, "__hash__", lambda self: hash(self.lost)))
        state = random.getstate()
        random.seed(rng.random())
        try:
            yield
        finally:
            random.setstate(state)


def run(loop: VirtualLoop, main: Awaitable[Any]) -> Any:
    """Run `main` to its end, then close the loop."""
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
