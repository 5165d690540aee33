"""The answer of MongoDB to a taking is lost: the mail must neither be lost nor wait for its hold to end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from pymongo.asynchronous.database import AsyncDatabase

from tests.contract.contract import binary, lines, refused
from tests.contract.test_email_stage import ADA, LINE, MILES, SENT
from tests.servers import HOST, Function


class Wire:
    """A TCP relay to MongoDB that, once `loses` is set, swallows the answer to a command and is then dead."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.loses: bytes | None = None
        self.dead = False

    @asynccontextmanager
    async def relay(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, HOST, 0)
        yield server.sockets[0].getsockname()[1]
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.dead:
            upstream_reader, upstream_writer = await asyncio.open_connection(HOST, self._target)
            with suppress(ConnectionError):
                await asyncio.gather(self._there(reader, upstream_writer), self._back(upstream_reader, writer))
            upstream_writer.close()
        writer.close()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            if self.loses and self.loses in chunk:
                self.dead = True
            writer.write(chunk)
        writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            if not self.dead:
                writer.write(chunk)
            elif self.loses:
                break
        writer.close()


async def test_a_taking_whose_answer_was_lost_is_taken_again_at_once(
    tmp_path: Path, mongo_url: str, mongo: AsyncDatabase[dict[str, Any]]
) -> None:
    url = urlsplit(mongo_url)
    assert url.port
    wire = Wire(url.port)
    event = {"specversion": "1.0", "id": "1", "source": "/tests", "type": "user:email", "data": ADA}
    await mongo["users"].insert_one({"_id": "1", "email": ADA, "distance_from_velocity": MILES})
    headers, body = binary(event)
    async with wire.relay() as port, httpx.AsyncClient(timeout=30) as client:
        env = {
            "MONGO_URL": f"mongodb://{HOST}:{port}{url.path}?directConnection=true",
            "SENT_EMAILS": str(tmp_path / "sent"),
        }
        email = await asyncio.to_thread(Function(tmp_path, "email", env=env).start)
        try:
            wire.loses = b"findAndModify"
            refused(await client.post(email.url, headers=headers, content=body), 503)
            taken = await mongo["mails"].find_one({"_id": "1"})
            assert taken is not None
            assert (taken["state"], taken["taken"]) == ("sending", 1)
            assert taken["until"] > datetime.now(UTC) + timedelta(seconds=60)
            assert lines(tmp_path / "sent") == []

            wire.loses, wire.dead = None, False
            response = await client.post(email.url, headers=headers, content=body)
            assert response.json() == SENT
            assert lines(tmp_path / "sent") == [LINE]
            assert await mongo["mails"].count_documents({"_id": "1", "state": "sent", "taken": 2}) == 1
        finally:
            await asyncio.to_thread(email.close)
