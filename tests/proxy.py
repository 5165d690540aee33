"""A TCP proxy in front of a server, for faults of the network."""

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit

from tests.servers import HOST


class Proxy:
    """Forwards connections made to `port` to the server at `server_url`. `url` is that URL with the proxy's port.

    - `stall()` silences the present connections for good, and closes none: they are half-open.
    - `freeze()` silences all connections, new ones too, until `thaw()`. `freeze_at(command)` does so when a command
      comes that has these bytes.
    - `lose(command)` lets the server carry out the next command that has these bytes, and cuts the connection instead
      of passing on the answer.
    - `hold(command)` lets the server carry out the next command that has these bytes, and holds the answers on that
      connection until `pass_on()`. `holds`: whether one has come.
    - `target`, a port, may be changed: new connections then go there, as behind a DNS name.
    """

    def __init__(self, server_url: str) -> None:
        port = urlsplit(server_url).port
        assert port is not None, server_url
        self.target = port
        self.is_down = False
        """Whether each connection is cut as soon as it is made."""
        self.connections = 0
        self.lost = 0
        """How many connections were made, and how many answers were lost."""
        self._server_url = server_url
        self._flows = asyncio.Event()
        self._flows.set()
        self._command_to_freeze_at: bytes | None = None
        self._commands_to_lose: list[bytes] = []
        self._goes_down = False
        self._clients_to_cut: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._stalled: set[asyncio.StreamWriter] = set()
        self._command_to_hold: bytes | None = None
        self._client_to_hold: asyncio.StreamWriter | None = None
        self._passes_on = asyncio.Event()
        self.holds = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = self._server_url.replace(f":{self.target}", f":{self.port}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._cut_all()

    @property
    def is_frozen(self) -> bool:
        return not self._flows.is_set()

    def freeze(self) -> None:
        self._flows.clear()

    def freeze_at(self, command: bytes) -> None:
        self._command_to_freeze_at = command

    def thaw(self) -> None:
        self._flows.set()

    def stall(self) -> int:
        """Silence the present connections. Returns how many there are."""
        self._stalled |= self._writers
        return len(self._writers) // 2

    def lose(self, command: bytes, *, times: int = 1, goes_down: bool = False) -> None:
        """Lose the answers to the next `times` commands. With `goes_down`, then cut everything, and set `is_down`."""
        self._commands_to_lose = [command] * times
        self._goes_down = goes_down

    def hold(self, command: bytes) -> None:
        self._command_to_hold = command

    def pass_on(self) -> None:
        self._passes_on.set()

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.is_down:
                raise ConnectionRefusedError
            answers, server = await asyncio.open_connection(HOST, self.target)
        except OSError:
            client.transport.abort()
            return
        self._writers |= {client, server}
        for flow in (self._forward(reader, server, client), self._forward(answers, client, client)):
            task = asyncio.create_task(flow)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if sink is not client and self._command_to_freeze_at and self._command_to_freeze_at in data:
                    self._command_to_freeze_at = None
                    self.freeze()
                await self._flows.wait()
                if sink in self._stalled:
                    continue
                if sink is client and client in self._clients_to_cut:
                    self._lose_answer(client)
                    break
                if sink is client and client is self._client_to_hold:
                    self.holds = True
                    await self._passes_on.wait()
                if sink is not client and self._command_to_hold and self._command_to_hold in data:
                    self._command_to_hold, self._client_to_hold = None, client
                if sink is not client and self._commands_to_lose and self._commands_to_lose[0] in data:
                    self._commands_to_lose.pop()
                    self._clients_to_cut.add(client)
                sink.write(data)
                await sink.drain()
        if sink not in self._stalled:
            sink.close()
            self._writers.discard(sink)

    def _lose_answer(self, client: asyncio.StreamWriter) -> None:
        self.lost += 1
        self._clients_to_cut.remove(client)
        if self._goes_down and not self._commands_to_lose:
            self.is_down = True
            self._cut_all()

    def _cut_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
