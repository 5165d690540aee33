from datetime import UTC, datetime, timedelta
from functools import partial

import httpx
import pytest
from redis.asyncio import Redis

from milepost.events.event import Event
from milepost.journal import Journal, keys
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.gateway.samples import LONDON
from tests.servers import eventually


async def test_a_submission_is_followed_through_the_channels_in_order(
    client: httpx.AsyncClient, redis: Redis, redis_url: str
) -> None:
    event_id = (await client.post("/distance", json=LONDON)).json()["id"]
    settings = JournalSettings(redis_url=redis_url)
    journal = Journal(connect(settings), settings)
    miles = {"email": "ada@example.org", "distance_from_velocity": 2216.0742916592476}
    for source, channel, data in (
        ("distance", "calculated_distance", miles),
        ("store", "user:email", "ada@example.org"),
    ):
        await eventually(partial(next_millisecond, redis, await redis.time()))
        await journal.publish(Event(id=event_id, source=f"/milepost/{source}", type=channel, data=data))
    await journal.close()
    answer = await client.get(f"/submissions/{event_id.upper()}")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    progress = answer.json()
    assert progress["id"] == event_id
    assert [(reached["channel"], reached["data"]) for reached in progress["channels"]] == [
        ("raw_input", LONDON),
        ("calculated_distance", miles),
        ("user:email", "ada@example.org"),
    ]
    times = [datetime.fromisoformat(reached["time"]) for reached in progress["channels"]]
    assert times == sorted(times)
    assert datetime.now(UTC) - times[0] < timedelta(minutes=1)
    assert all(reached["time"].endswith("Z") for reached in progress["channels"])


async def test_a_dead_letter_shows_with_its_reason(client: httpx.AsyncClient, redis: Redis) -> None:
    event_id = (await client.post("/distance", json=LONDON)).json()["id"]
    note = '{"at":9999999999999999,"data":{"reason":"answered 400"}}'
    assert (await client.get(f"/submissions/{event_id}")).json()["over"] is False
    await redis.hset(keys.status(event_id), "dead:distance", note)
    progress = (await client.get(f"/submissions/{event_id}")).json()
    assert progress["over"] is True
    last = progress["channels"][-1]
    assert (last["channel"], last["data"]) == ("dead:distance", {"reason": "answered 400"})


@pytest.mark.parametrize(
    "unknown",
    [
        "0199a3c5-7d1e-7c4a-9f0e-2b5d8c6a4e11",
        "1",
        "{0199a3c5-7d1e-7c4a-9f0e-2b5d8c6a4e11}",
        "0199a3c57d1e7c4a9f0e2b5d8c6a4e11",
        "x" * 5000,
        "%00",
        "..%2f..",
        "%F0%9F%92%A9",
    ],
)
async def test_an_unknown_id_or_one_that_is_no_uuid_is_404(client: httpx.AsyncClient, unknown: str) -> None:
    answer = await client.get(f"/submissions/{unknown}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 404


async def next_millisecond(redis: Redis, after: tuple[int, int]) -> bool:
    """Whether Redis's clock, in milliseconds as progress notes it, has moved on."""
    seconds, micros = await redis.time()
    return (seconds, micros // 1000) > (after[0], after[1] // 1000)
