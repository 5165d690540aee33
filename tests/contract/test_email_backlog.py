"""A backlog comes to the stage `email` as wide as the bridge's window is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pymongo.asynchronous.database import AsyncDatabase

from functions.mongo import MOST_SINGLE_OPERATIONS
from tests.contract.contract import binary, lines
from tests.contract.test_email_lost_answer import LEFT_BEHIND, LONG_PAST, NEW
from tests.contract.test_email_stage import ADA, MILES, SENT
from tests.servers import ANSWER_WITHIN, HOST, Function


class SlowMongo:
    """A TCP relay to MongoDB that delays the answers to takings, and counts concurrent takings."""

    def __init__(self, target: int, taking: bytes) -> None:
        self._target = target
        self._taking = taking
        self._asked: set[asyncio.StreamWriter] = set()
        self.most = 0

    @asynccontextmanager
    async def relay(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, HOST, 0)
        yield server.sockets[0].getsockname()[1]
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mongo_reader, mongo_writer = await asyncio.open_connection(HOST, self._target)
        with suppress(ConnectionError):
            await asyncio.gather(self._there(reader, mongo_writer, writer), self._back(mongo_reader, writer))
        mongo_writer.close()
        writer.close()

    async def _there(
        self, reader: asyncio.StreamReader, there: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        while chunk := await reader.read(65536):
            if self._taking in chunk:
                self._asked.add(back)
                self.most = max(self.most, len(self._asked))
            there.write(chunk)
        self._asked.discard(back)
        there.close()

    async def _back(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            if back in self._asked:
                await asyncio.sleep(0.2)
                self._asked.discard(back)
            back.write(chunk)
        back.close()


@pytest.mark.parametrize(("taking", "at_once"), [(NEW, 1), (LEFT_BEHIND, MOST_SINGLE_OPERATIONS)])
async def test_sent_mails_are_marked_during_a_backlog(
    tmp_path: Path, mongo_url: str, mongo: AsyncDatabase[dict[str, Any]], taking: bytes, at_once: int
) -> None:
    """A mail that is sent and cannot be marked in time would be sent again."""
    ids = [str(number) for number in range(150)]
    await mongo["users"].insert_many([{"_id": one, "email": ADA, "distance_from_velocity": MILES} for one in ids])
    if taking == LEFT_BEHIND:
        left = {"state": "sending", "until": LONG_PAST, "holder": "another", "taken": 1, **SENT}
        await mongo["mails"].insert_many([{"_id": one, **left} for one in ids])
    url = urlsplit(mongo_url)
    assert url.port
    slow = SlowMongo(url.port, taking)
    async with (
        slow.relay() as port,
        httpx.AsyncClient(timeout=ANSWER_WITHIN, limits=httpx.Limits(max_connections=None)) as client,
    ):
        env = {
            "MONGO_URL": f"mongodb://{HOST}:{port}{url.path}?directConnection=true",
            "SENT_EMAILS": str(tmp_path / "sent"),
        }
        email = await asyncio.to_thread(Function(tmp_path, "email", env=env).start)

        async def mail(one: str) -> int:
            event = {"specversion": "1.0", "id": one, "source": "/tests", "type": "user:email", "data": ADA}
            headers, body = binary(event)
            while (answer := await client.post(email.url, headers=headers, content=body)).status_code == 503:
                assert "was sent" not in answer.text  # but begun too slowly for its time, it comes again
            return answer.status_code

        try:
            answers = await asyncio.gather(*map(mail, ids))
        finally:
            await asyncio.to_thread(email.close)
    assert answers == [200] * len(ids)
    assert len(lines(tmp_path / "sent")) == len(ids)
    assert 0 < slow.most <= at_once
