"""Every way in leads to one e-mail, with the distance of that very submission."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from geographiclib.geodesic import Geodesic
from redis.asyncio import Redis

from functions.payloads import OFFICE
from milepost.events.event import Event, now
from tests.pipeline.conftest import Pipeline
from tests.servers import ANSWER_WITHIN, eventually, wait_for

PLACES = {
    "London": (51.5074, -0.1278),
    "New York": (40.7128, -74.006),
    "the North Pole": (90, 0),
    "the South Pole": (-90, 0),
    "the antimeridian, from the east": (0, 180),
    "the antimeridian, from the west": (0, -180),
    "the office": (32.080058, 34.864535),
}
METRES_PER_MILE = 1609.344


@pytest.fixture
def address() -> str:
    return f"u{uuid4().hex}@example.org"


@pytest.fixture
def client(pipeline: Pipeline) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=pipeline.gateway, timeout=ANSWER_WITHIN) as client:
        yield client


@pytest.fixture
async def redis(pipeline: Pipeline) -> AsyncIterator[Redis]:
    async with Redis.from_url(pipeline.stack["redis"]) as client:
        yield client


def miles(line: str) -> float:
    return float(line.split("You are ")[1].split(" miles from Velocity.", maxsplit=1)[0])


def test_form_submission_of_london_is_mailed_in_exactly_these_words(
    pipeline: Pipeline, client: httpx.Client, address: str
) -> None:
    answer = client.post("/distance", data={"email": address, "lat": "51.5074", "long": "-0.1278"})
    assert answer.status_code == 201
    assert pipeline.wait_for_email(address) == [
        f"Email sent to: {address}; Message: You are 2216.0742916592476 miles from Velocity."
    ]


@pytest.mark.parametrize("place", PLACES)
def test_each_place_is_mailed_its_distance(pipeline: Pipeline, client: httpx.Client, address: str, place: str) -> None:
    lat, long = PLACES[place]
    client.post("/distance", json={"email": address, "lat": lat, "long": long}).raise_for_status()
    (line,) = pipeline.wait_for_email(address)
    metres = Geodesic.WGS84.Inverse(lat, long, *OFFICE)["s12"]
    assert miles(line) == pytest.approx(metres / METRES_PER_MILE, rel=1e-12, abs=1e-9)


def test_json_is_answered_202_and_can_be_followed(pipeline: Pipeline, client: httpx.Client, address: str) -> None:
    answer = client.post("/distance", json={"email": address, "lat": 1, "long": 2})
    assert answer.status_code == 202
    body = answer.json()
    assert body == {"id": body["id"], "status": f"/submissions/{body['id']}"}

    way = ["raw_input", "calculated_distance", "user:email", "email:sent"]

    def reached() -> list[dict[str, Any]]:
        channels: list[dict[str, Any]] = client.get(body["status"]).json()["channels"]
        return [step for step in channels if step["channel"] in way]

    wait_for(lambda: reached()[-1]["channel"] == "email:sent", what="the last channel, noted after the e-mail")
    assert [step["channel"] for step in reached()] == way
    assert reached()[0]["data"] == {"email": address, "lat": 1.0, "long": 2.0}
    assert reached()[2]["data"] == address


def test_retries_with_one_idempotency_key_are_one_submission(
    pipeline: Pipeline, client: httpx.Client, address: str
) -> None:
    body = {"email": address, "lat": 1, "long": 2}
    ids = {client.post("/distance", json=body, headers={"Idempotency-Key": "again"}).json()["id"] for _ in range(3)}
    assert len(ids) == 1
    pipeline.wait_for_email(address)
    # A later submission has been mailed: a second mail of the first would have come before.
    client.post("/distance", json={"email": f"later-{address}", "lat": 1, "long": 2}).raise_for_status()
    pipeline.wait_for_email(f"later-{address}")
    assert len(pipeline.emails(address)) == 1


def test_milepost_publish_and_send_reach_the_email(pipeline: Pipeline, address: str) -> None:
    message = json.dumps({"email": address, "lat": "40.7", "long": "-74"})
    pipeline.run("publish", "raw_input", message)
    (line,) = pipeline.wait_for_email(address)
    assert miles(line) == 5680.2004177676945
    assert "You are 5680.2004177676945 miles from Velocity." in pipeline.run("send", address, "40.7", "-74")


async def test_plain_redis_publish_is_mailed_once(pipeline: Pipeline, redis: Redis, address: str) -> None:
    await redis.publish("raw_input", json.dumps({"email": address, "lat": "40.7", "long": "-74"}))
    await eventually(lambda: pipeline.emails(address))
    assert len(pipeline.emails(address)) == 1


async def test_cloud_event_by_redis_publish_is_mailed_once(pipeline: Pipeline, redis: Redis, address: str) -> None:
    event = Event(
        id=uuid4().hex, source="/me", type="raw_input", time=now(), data={"email": address, "lat": 1, "long": 2}
    )
    for _ in range(3):
        await redis.publish("raw_input", event.to_json())
    await eventually(lambda: pipeline.emails(address))
    assert len(pipeline.emails(address)) == 1


async def test_bare_address_is_mailed_its_newest_distance(pipeline: Pipeline, redis: Redis, address: str) -> None:
    for count, lat in enumerate((10, 20), 1):
        pipeline.run("send", address, str(lat), "2")
        assert len(pipeline.emails(address)) == count
    await redis.publish("user:email", address)
    await eventually(lambda: len(pipeline.emails(address)) == 3)
    first, newest, again = pipeline.emails(address)
    assert again == newest != first


@pytest.mark.parametrize(
    "message", [b"not json", b"null", b"7", b"\xff\xfe", b"x" * 2_000_000, b'{"specversion":"1.0","type":"other"}']
)
async def test_pipeline_goes_on_after_a_bad_message(
    pipeline: Pipeline, redis: Redis, address: str, message: bytes
) -> None:
    await redis.publish("raw_input", message)
    await redis.publish("raw_input", json.dumps({"email": address, "lat": 1, "long": 2}))
    await eventually(lambda: pipeline.emails(address))


def test_concurrent_submissions_each_get_their_own_distance(
    pipeline: Pipeline, client: httpx.Client, address: str
) -> None:
    wanted = {
        client.post("/distance", json={"email": address, "lat": lat, "long": 3}).json()["id"] for lat in range(40)
    }
    pipeline.wait_for_email(address, len(wanted))
    steps = [step for one in wanted for step in client.get(f"/submissions/{one}").json()["channels"]]
    stored = {step["data"]["distance_from_velocity"] for step in steps if step["channel"] == "calculated_distance"}
    assert sorted(miles(line) for line in pipeline.emails(address)) == sorted(stored)
    assert len(stored) == len(wanted)
