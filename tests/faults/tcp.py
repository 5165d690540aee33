"""A TCP proxy that can stop forwarding without closing anything."""

import asyncio
import contextlib
from typing import Self

from tests.servers import HOST


class Wire:
    """Forwards connections made to `port` to `target`.

    `stall()` silences the connections there are, for good: they are half-open. After `hold()` none carries anything,
    new ones neither, until `release()`.
    """

    def __init__(self, target: int) -> None:
        self._flows = asyncio.Event()
        self._flows.set()
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._stalled: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()

    @property
    def held(self) -> bool:
        return not self._flows.is_set()

    def hold(self) -> None:
        self._flows.clear()

    def release(self) -> None:
        self._flows.set()

    def stall(self) -> int:
        """Silence every connection there is; how many."""
        self._stalled |= self._writers
        return len(self._writers) // 2

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._forward(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                await self._flows.wait()
                if sink in self._stalled:
                    continue
                sink.write(data)
                await sink.drain()
        if sink not in self._stalled:
            sink.close()
            self._writers.discard(sink)
