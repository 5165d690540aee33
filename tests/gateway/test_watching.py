"""Server-sent events of a submission, from a gateway with the pipeline's stages in its Redis, and no bridge."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from gateway.notifier import MOST_OF_ONE
from milepost.events.event import Event
from milepost.journal import Journal, keys
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.gateway.samples import LONDON, reach, tell_stages
from tests.servers import ANSWER_WITHIN, Module, Valkey, eventually

LATER = ["calculated_distance", "user:email", "email:sent"]


@pytest.fixture
def client(visitor: httpx.AsyncClient) -> httpx.AsyncClient:
    return visitor


@pytest.fixture
async def journal(valkey: Valkey) -> AsyncIterator[Journal]:
    settings = JournalSettings(redis_url=valkey.url)
    journal = Journal(connect(settings), settings)
    yield journal
    await journal.close()


async def submit(client: httpx.AsyncClient) -> str:
    return str((await client.post("/distance", json=LONDON)).json()["id"])


class Stream:
    """The events of an open stream, one at a time."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.lines = answer.aiter_lines()
        self.last_id = ""

    async def next(self) -> dict[str, Any] | None:
        """The data of the next event; None at the end of the stream."""
        found: dict[str, Any] | None = None
        async with asyncio.timeout(ANSWER_WITHIN):
            async for line in self.lines:
                name, _, value = line.partition(": ")
                if name == "data":
                    found = json.loads(value)
                elif name == "id":
                    self.last_id = value
                elif not line and found is not None:
                    return found
        return None

    async def channels(self, count: int) -> list[str]:
        """The next so many channels."""
        told = [await self.next() for _ in range(count)]
        return [one["channel"] if one else "end" for one in told]


@asynccontextmanager
async def watching(client: httpx.AsyncClient, event_id: str, last: str | None = None) -> AsyncIterator[Stream]:
    headers = {} if last is None else {"Last-Event-ID": last}
    async with client.stream("GET", f"/submissions/{event_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        yield Stream(answer)


async def test_stream_has_each_channel_as_it_is_reached_and_ends_with_the_last(
    client: httpx.AsyncClient, journal: Journal
) -> None:
    event_id = await submit(client)
    async with watching(client, event_id) as stream:
        assert stream.answer.headers["content-type"].startswith("text/event-stream")
        assert stream.answer.headers["cache-control"] == "no-store"
        first = await stream.next()
        assert first is not None
        assert (first["channel"], first["data"], first["last"]) == ("raw_input", LONDON, False)
        for channel in LATER:
            await reach(journal, event_id, channel)
            told = await stream.next()
            assert told is not None
            assert (told["channel"], told["last"]) == (channel, channel == "email:sent")
            assert told["time"].endswith("Z")
        assert await stream.next() is None


async def test_stream_opened_late_has_every_channel(client: httpx.AsyncClient, journal: Journal) -> None:
    event_id = await submit(client)
    await reach(journal, event_id, *LATER)
    async with watching(client, event_id.upper()) as stream:
        assert await stream.channels(5) == ["raw_input", *LATER, "end"]


async def test_reconnected_stream_has_each_channel_once(client: httpx.AsyncClient, journal: Journal) -> None:
    event_id = await submit(client)
    async with watching(client, event_id) as stream:
        await reach(journal, event_id, LATER[0])
        assert await stream.channels(2) == ["raw_input", LATER[0]]
    await reach(journal, event_id, LATER[1])
    async with watching(client, event_id, stream.last_id) as stream:
        await reach(journal, event_id, LATER[2])
        assert await stream.channels(3) == [*LATER[1:], "end"]
    answer = await client.get(f"/submissions/{event_id}/events", headers={"Last-Event-ID": stream.last_id})
    assert answer.status_code == 204, "a browser then asks no more"


async def test_reconnected_stream_has_a_channel_once_whatever_its_name(
    client: httpx.AsyncClient, journal: Journal
) -> None:
    event_id = await submit(client)
    await journal.publish(Event(id=event_id, source="/test", type="größe,x", data=1))
    async with watching(client, event_id) as stream:
        assert await stream.channels(2) == ["raw_input", "größe,x"]
    await reach(journal, event_id, LATER[0])
    async with watching(client, event_id, stream.last_id) as stream:
        assert await stream.channels(1) == [LATER[0]]


async def test_submission_with_half_a_surrogate_pair_is_shown(client: httpx.AsyncClient, journal: Journal) -> None:
    event_id = await submit(client)
    data = {"email": "ada@example.org", "message": "half \ud83d"}
    await journal.publish(Event(id=event_id, source="/test", type="email:sent", data=data))
    for accept in ("text/html", "application/json"):
        shown = await client.get(f"/submissions/{event_id}", headers={"accept": accept})
        assert (shown.status_code, "half" in shown.text) == (200, True)


@pytest.mark.parametrize("last", ["", "nonsense", ",,,", "x" * 5000, "email:sent", "dead:email"])
async def test_any_last_event_id_is_taken(client: httpx.AsyncClient, last: str) -> None:
    event_id = await submit(client)
    async with watching(client, event_id, last) as stream:
        assert await stream.channels(1) == ["raw_input"]


async def test_streams_of_two_submissions_do_not_mix(client: httpx.AsyncClient, journal: Journal) -> None:
    one, other = [await submit(client) for _ in range(2)]
    async with watching(client, one) as first, watching(client, other) as second:
        await reach(journal, one, *LATER)
        assert await first.channels(5) == ["raw_input", *LATER, "end"]
        await reach(journal, other, LATER[0])
        assert await second.channels(2) == ["raw_input", LATER[0]]


async def test_message_that_was_only_published_is_not_shown(client: httpx.AsyncClient, journal: Journal) -> None:
    event_id = await submit(client)
    async with watching(client, event_id) as stream:
        assert await stream.channels(1) == ["raw_input"]
        forged = Event(id=event_id, source="/forger", type="email:sent", data={"message": "Send money."})
        await eventually(lambda: heard(journal.redis, forged), what="the gateway listens")
        await reach(journal, event_id, LATER[0])
        assert await stream.channels(1) == [LATER[0]]


async def heard(redis: Redis, event: Event) -> bool:
    return int(await redis.publish(event.type, event.to_json())) > 0


async def test_a_stage_that_gives_up_ends_the_stream_with_its_reason(
    client: httpx.AsyncClient, journal: Journal
) -> None:
    event_id = await submit(client)
    async with watching(client, event_id) as stream:
        assert await stream.channels(1) == ["raw_input"]
        note = '{"at":9999999999999999,"data":{"reason":"answered 422"}}'
        await journal.redis.hset(keys.status(event_id), "dead:distance", note)
        told = await stream.next()
        assert told is not None
        assert (told["channel"], told["data"], told["last"]) == ("dead:distance", {"reason": "answered 422"}, True)
        assert await stream.next() is None


@pytest.mark.parametrize("unknown", ["0199a3c5-7d1e-7c4a-9f0e-2b5d8c6a4e11", "1", "%00", "x" * 5000])
async def test_stream_of_an_unknown_submission_is_404(client: httpx.AsyncClient, unknown: str) -> None:
    answer = await client.get(f"/submissions/{unknown}/events", headers={"Accept": "text/event-stream"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_one_connection_to_redis_is_shared_by_all(client: httpx.AsyncClient, journal: Journal) -> None:
    async def subscribers() -> int:
        return len(await journal.redis.client_list(_type="pubsub"))

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            stream = await stack.enter_async_context(watching(client, await submit(client)))
            assert await stream.channels(1) == ["raw_input"]
        await eventually(subscribers)
        assert await subscribers() == 1
    await eventually(lambda: none(subscribers()), what="the end of the subscription")


async def none(count: Any) -> bool:
    return await count == 0


async def test_so_many_may_watch_one_submission(client: httpx.AsyncClient) -> None:
    event_id = await submit(client)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MOST_OF_ONE):
            await stack.enter_async_context(watching(client, event_id))
        refused = await client.get(f"/submissions/{event_id}/events")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
    await eventually(lambda: admitted(client, event_id), what="who leaves makes room")


async def admitted(client: httpx.AsyncClient, event_id: str) -> bool:
    async with client.stream("GET", f"/submissions/{event_id}/events") as answer:
        return answer.status_code == 200


async def test_a_stream_outlives_a_redis_that_is_killed(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey, Module(tmp_path, "gateway", env={"REDIS_URL": valkey.url}) as gateway:
        tell_stages(valkey.url)
        settings = JournalSettings(redis_url=valkey.url)
        journal = Journal(connect(settings), settings)
        async with httpx.AsyncClient(base_url=gateway.url, timeout=ANSWER_WITHIN) as client:
            event_id = await submit(client)
            async with watching(client, event_id) as stream:
                assert await stream.channels(1) == ["raw_input"]
                valkey.kill()
                assert (await client.get(f"/submissions/{event_id}/events")).status_code == 503
                valkey.start()
                await reach(journal, event_id, *LATER)
                assert await stream.channels(4) == [*LATER, "end"]
        await journal.close()


async def test_open_streams_do_not_hold_up_the_stop(tmp_path: Path, valkey: Valkey) -> None:
    with Module(tmp_path, "gateway", env={"REDIS_URL": valkey.url}) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=ANSWER_WITHIN) as client:
            event_id = await submit(client)
            async with watching(client, event_id) as stream:
                assert await stream.channels(1) == ["raw_input"]
                stopped = asyncio.create_task(asyncio.to_thread(gateway.stop))
                assert await stream.next() is None, "ended, not broken off"
                assert await stopped == 0
        assert "Traceback" not in gateway.log
        assert "graceful shutdown exceeded" not in gateway.log
