"""The stage `email` behind a real bridge: which events wait, and which do not, when an SMTP server refuses mails."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from functions.payloads import Recipient
from milepost.journal import keys
from milepost.testing import LocalPipeline, load
from milepost.testing.servers import eventually
from tests.contract.smtp import ACCEPTED, SmtpServer
from tests.servers import ROOT


@pytest.fixture
async def smtp() -> AsyncIterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture
async def pipeline(monkeypatch: pytest.MonkeyPatch, mongo_url: str, smtp: SmtpServer) -> AsyncIterator[LocalPipeline]:
    monkeypatch.setenv("MONGO_URL", mongo_url)
    monkeypatch.setenv("SMTP_URL", smtp.url)
    stage = load(ROOT / "functions" / "email" / "main.py")
    async with LocalPipeline(stage, delivery={"retry": 0, "crashRetry": 0, "batch": 4}) as pipeline:
        yield pipeline


async def publish(pipeline: LocalPipeline, mongo: AsyncDatabase[dict[str, Any]], address: str) -> str:
    """Publish an address whose distance is kept. Returns the event's id."""
    event_id = str(uuid4())
    user = {"_id": event_id, "email": address, "distance_from_velocity": 1.5, "created": datetime.now(UTC)}
    await mongo["users"].insert_one(user)
    return await pipeline.publish(Recipient(address), event_id=event_id)


async def test_recipients_over_quota_wait_alone_and_no_other_mail_waits(
    pipeline: LocalPipeline, mongo: AsyncDatabase[dict[str, Any]], smtp: SmtpServer
) -> None:
    smtp.inbox.recipient = lambda to: "452 4.2.2 over quota" if to.startswith("full") else ACCEPTED
    addresses = [f"{kind}-{number}@example.org" for number in range(6) for kind in ("full", "free", "open")]
    ids = {address: await publish(pipeline, mongo, address) for address in addresses}
    for address in addresses:
        if not address.startswith("full"):
            assert (await pipeline.published("email:sent", ids[address])).data["email"] == address

    async def six_are_parked() -> bool:
        return await pipeline.redis.zcard(keys.parked("email")) == 6

    await eventually(six_are_parked)
    assert await pipeline.journal.admin.dead_letters("email") == []
    smtp.inbox.recipient = lambda _: ACCEPTED
    for address in addresses:
        if address.startswith("full"):
            assert (await pipeline.published("email:sent", ids[address])).data["email"] == address


async def test_no_mail_is_buried_while_the_relay_denies_and_all_are_sent_afterwards(
    pipeline: LocalPipeline, mongo: AsyncDatabase[dict[str, Any]], smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    smtp.inbox.recipient = lambda _: "554 5.7.1 relay access denied"
    ids = [await publish(pipeline, mongo, f"ada-{number}@example.org") for number in range(5)]
    await eventually(lambda: "relay access denied" in caplog.text)
    assert await pipeline.journal.admin.dead_letters("email") == []
    smtp.inbox.recipient = lambda _: ACCEPTED
    for event_id in ids:
        await pipeline.published("email:sent", event_id)
    assert len(smtp.inbox.messages) == 5


async def test_mail_to_no_mailbox_is_buried_with_the_servers_reply(
    pipeline: LocalPipeline, mongo: AsyncDatabase[dict[str, Any]], smtp: SmtpServer
) -> None:
    smtp.inbox.recipient = lambda to: "550 5.1.1 no such user" if to.startswith("gone") else ACCEPTED
    gone, there = [await publish(pipeline, mongo, f"{name}@example.org") for name in ("gone", "there")]
    await pipeline.published("email:sent", there)
    await eventually(lambda: pipeline.journal.admin.dead_letters("email"))
    (letter,) = await pipeline.journal.admin.dead_letters("email")
    assert (letter.id, letter.reason) == (gone, "HTTP 422: SMTP RCPT TO: 550 5.1.1 no such user")
