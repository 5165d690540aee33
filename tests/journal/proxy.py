"""A TCP proxy before Redis that loses the answer to a command: Redis has done it, and the client cannot know."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

HOST = "127.0.0.1"


class Proxy:
    """Passes everything on; `lose(b"EVALSHA")` cuts the connection at the answer to the next such command."""

    def __init__(self, redis_url: str) -> None:
        self._port = urlsplit(redis_url).port
        self._loses: bytes | None = None
        self.url = ""
        self.lost = 0
        self.carrying: set[asyncio.Task[None]] = set()

    def lose(self, command: bytes) -> None:
        self._loses = command

    def accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self.carry(client, to_client))
        self.carrying.add(task)
        task.add_done_callback(self.carrying.discard)

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
        try:
            await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for writer in (to_client, to_server):
                writer.close()
            for flow in flows:
                flow.cancel()
            await asyncio.gather(*flows, return_exceptions=True)


@asynccontextmanager
async def proxied(redis_url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(redis_url)
    server = await asyncio.start_server(proxy.accept, HOST, 0)
    proxy.url = f"redis://{HOST}:{server.sockets[0].getsockname()[1]}/0"
    yield proxy
    server.close()  # not `async with`, which since Python 3.12 waits for the clients to hang up
    for task in proxy.carrying:
        task.cancel()
    await asyncio.gather(*proxy.carrying, return_exceptions=True)
