"""A TCP relay to MongoDB that loses answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from tests.servers import HOST


class Wire:
    """`async with Wire(mongo_url).relay() as url`. Passes everything on, until `lose` is called."""

    def __init__(self, mongo_url: str) -> None:
        self._target = urlsplit(mongo_url)
        self._loses: list[bytes] = []
        self._cut: set[asyncio.StreamWriter] = set()
        self._stays_dead = False
        self.dead = False

    @property
    def lost(self) -> bool:
        """Whether every answer that was to be lost is."""
        return not self._loses and not self._cut

    def lose(self, command: bytes, *, times: int = 1, stays_dead: bool = False) -> None:
        """Carry out the next `times` commands that hold these bytes, swallow their answers, and cut their connections.
        With `stays_dead`, nothing else comes through until `dead` is set to False.
        """
        self._loses = [command] * times
        self._stays_dead = stays_dead

    @asynccontextmanager
    async def relay(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        yield f"mongodb://{HOST}:{port}{self._target.path}?directConnection=true"
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.dead:
            there_reader, there = await asyncio.open_connection(HOST, self._target.port)
            with suppress(ConnectionError):
                await asyncio.gather(self._there(reader, there, writer), self._back(there_reader, writer))
            there.close()
        writer.close()

    async def _there(
        self, reader: asyncio.StreamReader, there: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        while chunk := await reader.read(65536):
            if self._loses and self._loses[0] in chunk:
                self._loses.pop()
                self._cut.add(back)
                self.dead = self._stays_dead
            there.write(chunk)
        there.close()

    async def _back(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            if back in self._cut:
                self._cut.remove(back)
                break
            if not self.dead:
                back.write(chunk)
        back.close()
