"""The answer of MongoDB to a taking is lost: the mail must neither be lost nor wait until others may take it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo.asynchronous.database import AsyncDatabase

from tests.contract.contract import binary, lines, refused
from tests.contract.test_email_stage import ADA, LINE, MILES, SENT
from tests.contract.together import proxied
from tests.servers import ANSWER_WITHIN, Function

HEADERS, BODY = binary({"specversion": "1.0", "id": "1", "source": "/tests", "type": "user:email", "data": ADA})
NEW, LEFT_BEHIND = b"insert", b"$inc"
LONG_PAST = datetime(2017, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def post_to(folder: Path, url: str) -> AsyncIterator[Any]:
    """`await post()` delivers the event to a process of the stage that has MongoDB at the URL."""
    env = {"MONGO_URL": url, "SENT_EMAILS": str(folder / "sent")}
    email = await asyncio.to_thread(Function(folder, "email", env=env).start)
    try:
        async with httpx.AsyncClient(timeout=ANSWER_WITHIN) as client:
            yield lambda: client.post(email.url, headers=HEADERS, content=BODY)
    finally:
        await asyncio.to_thread(email.close)


async def prepare(mongo: AsyncDatabase[dict[str, Any]], taking: bytes) -> int:
    """A user, and for a mail that was left behind its record. Returns how often that is taken."""
    await mongo["users"].insert_one({"_id": "1", "email": ADA, "distance_from_velocity": MILES})
    if taking == NEW:
        return 0
    left = {"_id": "1", "state": "sending", "until": LONG_PAST, "holder": "another", "taken": 1, **SENT}
    await mongo["mails"].insert_one(left)
    return 1


@pytest.mark.parametrize("taking", [NEW, LEFT_BEHIND])
async def test_record_whose_taking_got_no_answer_is_taken_again_at_once(
    tmp_path: Path, mongo_url: str, mongo: AsyncDatabase[dict[str, Any]], taking: bytes
) -> None:
    before = await prepare(mongo, taking)
    async with proxied(mongo_url) as (proxy, url), post_to(tmp_path, url) as post:
        proxy.lose(taking, goes_down=True)
        refused(await post(), 503)
        assert proxy.lost
        taken = await mongo["mails"].find_one({"_id": "1"})
        assert taken is not None
        assert (taken["state"], taken["taken"]) == ("sending", before + 1)
        assert taken["until"] > datetime.now(UTC) + timedelta(seconds=60)
        assert lines(tmp_path / "sent") == []

        proxy.is_down = False
        assert (await post()).json() == SENT
        assert lines(tmp_path / "sent") == [LINE]
        assert await mongo["mails"].count_documents({"_id": "1", "state": "sent", "taken": before + 2}) == 1


@pytest.mark.parametrize("taking", [NEW, LEFT_BEHIND])
async def test_taking_that_the_driver_retries_succeeds(
    tmp_path: Path, mongo_url: str, mongo: AsyncDatabase[dict[str, Any]], taking: bytes
) -> None:
    """A server that does not know the repeat for one says of our own record that it is there already."""
    await prepare(mongo, taking)
    async with proxied(mongo_url) as (proxy, url), post_to(tmp_path, url) as post:
        proxy.lose(taking)
        assert (await post()).json() == SENT
        assert proxy.lost
        assert lines(tmp_path / "sent") == [LINE]
        assert await mongo["mails"].count_documents({"_id": "1", "state": "sent"}) == 1
