"""The Redis of a simulation: a real Valkey whose wall clock is the loop's, in lockstep.

Each simulated connection has a real one. A command is sent, and its reply is read, within one step of the loop, so the
server never decides an order by itself. The bytes of the replies are those of the server. Two things take more:

- A blocking read (XREADGROUP, or XREAD for an ordered stage) is left to the server. After each other command its
  connection is looked at; when its time is over by the virtual clock, CLIENT UNBLOCK ends it.
- Messages are received on one connection for all, which subscribes to every channel. Each subscriber gets its share.
"""

import hashlib
import mmap
import platform
import select
import shutil
import socket
import struct
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any, Self

import hiredis

from tests.servers import HOST, Valkey
from tests.simulation.loop import EPOCH, VirtualLoop, Wire

COMPILER = shutil.which("cc")

WHY_NOT = (
    ""
    if (sys.platform, platform.machine()) == ("linux", "x86_64") and COMPILER
    else "needs Linux on x86-64, and cc on PATH"
)
"""Why the simulation cannot run here; empty if it can."""

REDIS = "redis.sim"

_NOTHING = object()
_MAY_PUBLISH = {b"EVAL", b"EVALSHA", b"PUBLISH"}
_MAY_BLOCK = {b"XREAD", b"XREADGROUP"}


class Server:
    """A Valkey with the virtual clock. It serves one run after another."""

    def __init__(self, folder: Path) -> None:
        clock = folder / "clock"
        clock.write_bytes(bytes(8))
        with clock.open("r+b") as file:
            self._clock = mmap.mmap(file.fileno(), 8)
        library = folder / "clock.so"
        source = Path(__file__).parent / "clock.c"
        subprocess.run([str(COMPILER), "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        self._valkey = Valkey(folder, options={"appendonly": "no", "save": ""})
        self._valkey.env |= {"LD_PRELOAD": str(library), "CLOCK": str(clock)}

    def __enter__(self) -> Self:
        self.set_clock(0)
        self._valkey.start()
        line = self.open()
        assert b"monotonic_clock:POSIX" in line.call("INFO", "server"), "Valkey reads the wall clock seldom"
        line.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._valkey.kill()
        self._clock.close()

    def set_clock(self, now: float) -> None:
        self._clock[:] = struct.pack("=q", round((EPOCH + now) * 1_000_000))

    def open(self) -> "Line":
        return Line(self._valkey.port)


class Line:
    """A real connection to the server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.connect((HOST, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self.id = self.call("CLIENT", "ID")

    def send(self, *command: Any) -> None:
        self.socket.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]

    def receive(self) -> tuple[bytes, Any]:
        """Wait for one reply. Return its bytes, and its value."""
        raw = b""
        while (reply := self._reader.gets()) is _NOTHING:
            chunk = self.socket.recv(1 << 20)
            assert chunk, "the server closed a connection of the simulation"
            raw += chunk
            self._reader.feed(chunk)
        return raw, reply

    def call(self, *command: Any) -> Any:
        self.send(*command)
        return self.receive()[1]

    def close(self) -> None:
        self.socket.close()


class Redis:
    """The server as one run sees it. `digest` is of all commands and their times; `published` of all messages."""

    def __init__(self, server: Server, loop: VirtualLoop) -> None:
        self.loop = loop
        self.server = server
        self.digest = hashlib.sha256()
        self.commands = 0
        self.replica: list[tuple[bytes, int, bytes]] | None = None
        """The content of a replica that is behind: each key with its dump, and when it expires; None: it has all."""
        self.published: list[tuple[float, bytes, bytes]] = []
        self._admin = server.open()
        self._admin.call("FLUSHALL")
        self._admin.call("SCRIPT", "FLUSH")
        self._watcher = server.open()
        self._watcher.call("PSUBSCRIBE", "*")
        self._subscribers: list[RedisSession] = []
        self._blocked: dict[int, RedisSession] = {}
        self._poll = select.poll()
        self._sessions: list[RedisSession] = []
        loop.network.listeners[REDIS] = self._accept

    def _accept(self, wire: Wire) -> "RedisSession":
        session = RedisSession(self, wire)
        self._sessions.append(session)
        return session

    def call(self, *command: Any) -> Any:
        """Run a command of the simulation itself."""
        return self.run(self._admin, command)[1]

    def run(self, line: Line, command: tuple[Any, ...]) -> tuple[bytes, Any]:
        self.server.set_clock(self.loop.time())
        self._count(command)
        line.send(*command)
        found = line.receive()
        self._after(command[0] if isinstance(command[0], bytes) else command[0].encode())
        return found

    def _count(self, command: tuple[Any, ...]) -> None:
        self.commands += 1
        self.digest.update(f"{self.loop.time():.6f}{command!r}".encode())

    def _after(self, name: bytes) -> None:
        """Hand on the messages that a command published, and the entries that it gave to blocking reads."""
        if name.upper() not in _MAY_PUBLISH:
            return
        self._watcher.send("PING")
        while True:
            _, (kind, *rest) = self._watcher.receive()
            if kind == b"pong":
                break
            _, channel, data = rest
            self.published.append((self.loop.time(), channel, data))
            for session in self._subscribers:
                session.message(channel, data)
        for descriptor, _ in sorted(self._poll.poll(0)):
            self._blocked[descriptor].unblock()

    def block(self, session: "RedisSession", command: tuple[Any, ...]) -> None:
        """Send a blocking read. The reply may be there at once."""
        self.server.set_clock(self.loop.time())
        self._count(command)
        session.line.send(*command)
        descriptor = session.line.socket.fileno()
        self._blocked[descriptor] = session
        self._poll.register(descriptor, select.POLLIN)
        # The server has run the read once it counts this client among the blocked, or has answered.
        while not self._poll.poll(0) and b" flags=b" not in self._admin.call("CLIENT", "LIST", "ID", session.line.id):
            pass
        for found, _ in sorted(self._poll.poll(0)):
            self._blocked[found].unblock()

    def forget_blocked(self, session: "RedisSession") -> None:
        descriptor = session.line.socket.fileno()
        if self._blocked.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def end_block(self, session: "RedisSession") -> None:
        self.server.set_clock(self.loop.time())
        self._admin.call("CLIENT", "UNBLOCK", session.line.id)
        session.unblock()

    def subscribe(self, session: "RedisSession") -> None:
        if session not in self._subscribers:
            self._subscribers.append(session)

    def end(self, session: "RedisSession") -> None:
        """The server learns that a connection is lost. A read that it blocked gets nothing from now on."""
        if session in self._subscribers:
            self._subscribers.remove(session)
        if session in self._sessions:
            self._sessions.remove(session)
            self.forget_blocked(session)
            self._admin.call("CLIENT", "KILL", "ID", session.line.id)
            session.line.close()

    def restart(self) -> None:
        """Forget the scripts, as a restarted server has. The caller breaks the connections too."""
        self._admin.call("SCRIPT", "FLUSH")

    def fall_behind(self) -> None:
        """From now on the replica gets nothing that the primary writes, and WAIT counts no replica."""
        names = self.call("KEYS", "*")
        self.replica = [(name, self.call("PEXPIRETIME", name), self.call("DUMP", name)) for name in names]

    def fail_over(self) -> None:
        """Promote the replica: writes that it did not get are lost. The caller breaks the connections too."""
        assert self.replica is not None
        self.call("FLUSHALL")
        for name, until, dump in self.replica:
            self.call("RESTORE", name, max(0, until), dump, "ABSTTL")
        self.replica = None
        self.restart()

    def close(self) -> None:
        for session in list(self._sessions):
            self.end(session)
        self._watcher.close()
        self._admin.close()


class RedisSession:
    """The server's end of one simulated connection."""

    def __init__(self, redis: Redis, wire: Wire) -> None:
        self.line = redis.server.open()
        self._redis = redis
        self._wire = wire
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[tuple[bytes, ...]] = deque()
        self._timer: Any = None
        self._channels: set[bytes] = set()
        self._push = b"*"
        self._ended = False

    def received(self, data: bytes) -> None:
        if self._ended:
            return
        self._reader.feed(data)
        while (command := self._reader.gets()) is not _NOTHING:
            self._waiting.append(tuple(command))
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self._timer is None and not self._ended:
            self._run(self._waiting.popleft())

    def _run(self, command: tuple[bytes, ...]) -> None:
        name = command[0].upper()
        if name in {b"SUBSCRIBE", b"UNSUBSCRIBE"}:
            self._subscribe(name.lower(), command[1:])
        elif name in _MAY_BLOCK and b"BLOCK" in command:
            at = command.index(b"BLOCK") + 1
            self._timer = self._redis.loop.call_later(int(command[at]) / 1000, self._redis.end_block, self)
            self._redis.block(self, (*command[:at], b"0", *command[at + 1 :]))
        elif name == b"WAIT":
            behind = self._redis.replica is not None
            after = int(command[2]) / 1000 if behind else 0.0
            self._timer = self._redis.loop.call_later(after, self._end_wait, b":0\r\n" if behind else b":1\r\n")
        else:
            if name == b"HELLO" and command[1:2] == (b"3",):
                self._push = b">"
            raw, _ = self._redis.run(self.line, command)
            self._wire.reply(raw)

    def _end_wait(self, reply: bytes) -> None:
        self._timer = None
        self._wire.reply(reply)
        self._go_on()

    def unblock(self) -> None:
        """The blocking read has its reply."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._redis.forget_blocked(self)
        self._wire.reply(self.line.receive()[0])
        self._redis.loop.call_soon(self._go_on)

    def _subscribe(self, kind: bytes, channels: tuple[bytes, ...]) -> None:
        self._redis.subscribe(self)
        for channel in channels:
            (self._channels.add if kind == b"subscribe" else self._channels.discard)(channel)
            head = self._push + b"3\r\n"
            self._wire.reply(head + _text(kind) + _text(channel) + b":%d\r\n" % len(self._channels))

    def message(self, channel: bytes, data: bytes) -> None:
        if channel in self._channels:
            self._wire.reply(self._push + b"3\r\n" + _text(b"message") + _text(channel) + _text(data))

    def lost(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._redis.end(self)


def _text(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)
