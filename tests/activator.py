"""A stand-in for Knative's activator: one function, at zero until a request comes.

    async with Activator(lambda: Function(tmp_path, "distance"), platform_delay=0.2) as distance:
        distance.url                       # an event POSTed there starts a process
        distance.starts, distance.requests # 1, {"POST /": 1}

1. A request that comes while no process runs is held. `platform_delay` seconds later, which stand for all that a
   cluster does itself, a process is launched.
2. When it takes connections the requests that were held are forwarded, and later ones at once.
3. After `idle` seconds without a request, or at `scale_down()`, the process gets no new request: the next one starts
   another process.
4. The process gets SIGTERM `drain` seconds after its latest request or the scale-down, whichever is later, as from
   Knative's queue-proxy. If it still runs `grace` seconds later it is killed.

A process that ends before it takes connections gives 503 to the requests that were held, and one that closes a
connection without a response gives 502. One process serves a function: nothing here scales to two.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Self

from tests.servers import HOST, Server, free_port

PROBE_EVERY = 0.025
"""Seconds between two tries to connect to a process that starts, as Knative's queue-proxy has it."""

LOOK_EVERY = 0.02
"""Seconds between two looks whether a process is idle, is drained, or has ended."""


class _Process:
    """One running process: the requests that it has now, and when the latest one came or was answered."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.process = server.process  # of its own: the server may be started again while this one is ended
        self.under_way = 0
        self.latest = asyncio.get_running_loop().time()


class Activator:
    """Listens on `url`. `make` returns a server that is not started; one that has ended is started again.

    `requests` counts requests by method and path. `starts`, `terminated` and `killed` count processes: started, sent
    SIGTERM, and not ended within their grace.
    """

    def __init__(
        self,
        make: Callable[[], Server],
        *,
        platform_delay: float = 0.0,
        idle: float = 60.0,
        drain: float = 30.0,
        grace: float = 30.0,
    ) -> None:
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.requests: Counter[str] = Counter()
        self.starts = 0
        self.terminated = 0
        self.killed = 0
        self._make = make
        self._platform_delay = platform_delay
        self._idle = idle
        self._drain = drain
        self._grace = grace
        self._servers: list[Server] = []
        self._current: asyncio.Task[_Process] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._accept, HOST, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listening:
            self._listening.close()
        tasks = [*self._tasks, *filter(None, [self._current])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            server.close()

    @property
    def running(self) -> int:
        """How many processes run, draining ones included."""
        return sum(server.alive for server in self._servers)

    @property
    def log(self) -> str:
        """The output of all processes."""
        return "".join(server.log for server in self._servers)

    def scale_down(self) -> None:
        """Let the process drain and end, also if it has requests."""
        if self._current and self._current.done() and not self._current.exception():
            self._background(self._end(self._current.result()))
        self._current = None

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # The life of a process

    async def _start(self) -> _Process:
        self.starts += 1
        await asyncio.sleep(self._platform_delay)
        server = next((server for server in self._servers if not server.alive), None)
        if server is None:
            server = self._make()
            self._servers.append(server)
        server.launch()
        while not await _connects(server.port):
            if not server.alive:
                raise ChildProcessError(f"{server.name} ended at its start: {server.log[-1000:]}")
            await asyncio.sleep(PROBE_EVERY)
        process = _Process(server)
        self._background(self._watch(process))
        return process

    async def _watch(self, process: _Process) -> None:
        """Scale down when the process is idle."""
        while process.under_way or _now() < process.latest + self._idle:
            await asyncio.sleep(LOOK_EVERY)
            if not self._current or not self._current.done() or self._current.result() is not process:
                return
        self.scale_down()

    async def _end(self, process: _Process) -> None:
        process.latest = max(process.latest, _now())
        while _now() < process.latest + self._drain:
            await asyncio.sleep(LOOK_EVERY)
        running = process.process
        if running is None or running.poll() is not None:
            return
        running.terminate()
        self.terminated += 1
        until = _now() + self._grace
        while running.poll() is None and _now() < until:
            await asyncio.sleep(LOOK_EVERY)
        if running.poll() is None:
            self.killed += 1
            running.kill()
            running.wait()

    # A request

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._background(self._converse(reader, writer))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    body = await reader.readexactly(int(_header(head, b"content-length") or 0))
                    method, path, _ = head.split(b" ", 2)
                    self.requests[f"{method.decode()} {path.decode()}"] += 1
                    writer.write(await self._respond(head, body))
                    await writer.drain()
        finally:
            writer.transport.abort()

    async def _respond(self, head: bytes, body: bytes) -> bytes:
        if self._current is None:
            self._current = asyncio.create_task(self._start())
        starting = self._current
        try:
            process = await asyncio.shield(starting)
        except ChildProcessError as fault:
            if self._current is starting:
                self._current = None
            return _status(b"503 Service Unavailable", str(fault).encode())
        process.under_way += 1
        process.latest = _now()
        try:
            return await _forward(process.server.port, head, body)
        except OSError as fault:
            if self._current is starting and not process.server.alive:
                self._current = None
            return _status(b"502 Bad Gateway", str(fault).encode())
        finally:
            process.under_way -= 1
            process.latest = max(process.latest, _now()) if self._current is starting else process.latest


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _connects(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.transport.abort()
    return True


async def _forward(port: int, head: bytes, body: bytes) -> bytes:
    """Send a request on a connection of its own, and return the response. Raises OSError if there is none."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(_with_connection(head, b"connection: close\r\n") + body)
        response = await reader.read(-1)
    finally:
        writer.transport.abort()
    begin, end, content = response.partition(b"\r\n\r\n")
    if not end:
        raise ConnectionError("the process closed the connection")
    return _with_connection(begin + end, b"") + content


def _with_connection(head: bytes, line: bytes) -> bytes:
    """Return the head with this line in place of its `Connection`."""
    lines = head.removesuffix(b"\r\n").splitlines(keepends=True)
    return b"".join([each for each in lines if not each.lower().startswith(b"connection:")]) + line + b"\r\n"


def _header(head: bytes, name: bytes) -> bytes | None:
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return next((value.strip() for found, _, value in lines if found.lower() == name), None)


def _status(status: bytes, text: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(text), text)
