"""A TCP proxy before Redis that loses the answer to a command: Redis has done it, and the client cannot know."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

HOST = "127.0.0.1"


class Proxy:
    """Passes everything on; `lose(b"EVALSHA")` cuts the connection at the answer to the next such command."""

    def __init__(self, redis_url: str) -> None:
        self._port = urlsplit(redis_url).port
        self._loses: bytes | None = None
        self.url = ""
        self.lost = 0

    def lose(self, command: bytes) -> None:
        self._loses = command

    async def carry(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(HOST, self._port)
        cut = asyncio.Event()

        async def there() -> None:
            while data := await client.read(65536):
                if self._loses and self._loses in data:
                    self._loses = None
                    cut.set()
                to_server.write(data)

        async def back() -> None:
            while data := await server.read(65536):
                if cut.is_set():
                    self.lost += 1
                    return
                to_client.write(data)

        flows = [asyncio.create_task(there()), asyncio.create_task(back())]
        await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, return_exceptions=True)
        for writer in (to_client, to_server):
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def proxied(redis_url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(redis_url)
    server = await asyncio.start_server(proxy.carry, HOST, 0)
    async with server:
        proxy.url = f"redis://{HOST}:{server.sockets[0].getsockname()[1]}/0"
        yield proxy
