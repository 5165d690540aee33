"""LocalPipeline: a pipeline of a test's own, with a real Redis and the real bridge."""

import asyncio
from collections import Counter

import httpx
import pytest

from functions.payloads import CalculatedDistance, Recipient, Submission
from milepost import Payload, Reject, stage
from milepost.errors import ConfigurationError
from milepost.events.event import Event
from milepost.testing import LocalPipeline, load
from tests.servers import ANSWER_WITHIN, ROOT, eventually

LONDON = Submission(email="ada@example.org", lat=51.5074, long=-0.1278)
distance = load(ROOT / "functions" / "distance" / "main.py")


class Place(Payload, channel="place"):
    name: str


def geocode(submission: Submission) -> Place:
    """A second stage on the first's channel."""
    return Place(name=f"{submission.lat:.0f}, {submission.long:.0f}")


def store(distance: CalculatedDistance) -> Recipient:
    """The next stage after distance, without its database."""
    if distance.distance_from_velocity > 10_000:
        raise Reject("too far")
    return Recipient(distance.email)


async def test_event_passes_every_stage_and_keeps_its_id() -> None:
    async with LocalPipeline(distance, stage(store)) as pipeline:
        assert pipeline.channels == ["calculated_distance", "raw_input", "user:email"]
        event_id = await pipeline.publish(LONDON)
        miles = await pipeline.published("calculated_distance")
        assert miles.id == event_id
        assert miles.data == {"email": "ada@example.org", "distance_from_velocity": 2216.0742916592476}
        mailed = await pipeline.published("user:email", event_id)
        assert (mailed.source, mailed.data) == ("/milepost/store", "ada@example.org")
        assert list(await pipeline.journal.status(event_id)) == ["raw_input", "calculated_distance", "user:email"]


async def test_stages_read_a_request_that_offers_an_upgrade_as_their_images_do() -> None:
    async with LocalPipeline(distance) as pipeline:
        await eventually(pipeline.journal.admin.stages)
        (served,) = await pipeline.journal.admin.stages()
        event = {"specversion": "1.0", "id": "1", "source": "/me", "type": "raw_input", "data": LONDON.model_dump()}
        headers = {"content-type": "application/cloudevents+json", "connection": "Upgrade", "upgrade": "h2c"}
        async with httpx.AsyncClient(timeout=ANSWER_WITHIN) as client:
            response = await client.post(served.url, headers=headers, json=event)
        assert response.status_code == 200, response.text


async def test_both_stages_of_a_channel_get_each_event(redis_url: str, redis: object) -> None:
    async with LocalPipeline(distance, stage(geocode), redis_url=redis_url) as pipeline:
        ids = await asyncio.gather(*(pipeline.publish(LONDON) for _ in range(20)))
        for channel in ("calculated_distance", "place"):
            came = [(await pipeline.published(channel)).id for _ in ids]
            assert Counter(came) == Counter(ids)


async def test_published_returns_earlier_events_once() -> None:
    async with LocalPipeline(distance) as pipeline:
        first, second = await pipeline.publish(LONDON), await pipeline.publish(LONDON)
        assert (await pipeline.published("calculated_distance", second)).id == second
        assert (await pipeline.published("calculated_distance")).id == first
        pipeline.within = 0.2
        with pytest.raises(AssertionError, match=r"nothing on calculated_distance within 0.2 s; buried: nothing"):
            await pipeline.published("calculated_distance")


async def test_published_names_dead_letters_with_their_reasons() -> None:
    async with LocalPipeline(distance, stage(store), within=0.2) as pipeline:
        antipode = await pipeline.publish(Submission(email="ada@example.org", lat=-32.08, long=-145.1355))
        await eventually(lambda: pipeline.journal.admin.dead_letters("store"))
        with pytest.raises(AssertionError, match=f"nothing of {antipode} on user:email .*store: .*too far"):
            await pipeline.published("user:email", antipode)


async def test_delivery_settings_reach_the_bridge() -> None:
    calls: list[str] = []

    def flaky(submission: Submission, event: Event) -> Place:
        calls.append(event.id)
        if len(calls) < 3:
            raise RuntimeError("not yet")
        return Place(name=submission.email)

    async with LocalPipeline(stage(flaky, inline=True), delivery={"backoffDelay": "PT0.01S"}) as pipeline:
        event_id = await pipeline.publish(LONDON)
        assert (await pipeline.published("place")).id == event_id
        assert calls == [event_id] * 3


async def test_a_plain_publish_is_adopted() -> None:
    async with LocalPipeline(distance) as pipeline:
        await pipeline.redis.publish("raw_input", b"\xff")
        await pipeline.redis.publish("raw_input", '{"email": "a@b.co", "lat": "1.5", "long": "2"}')
        assert (await pipeline.published("calculated_distance")).data["email"] == "a@b.co"


async def test_unknown_channels_and_settings_are_refused() -> None:
    async with LocalPipeline(distance) as pipeline:
        with pytest.raises(ConfigurationError, match="no stage consumes or emits place, only calculated_distance"):
            await pipeline.published("place")
    with pytest.raises(ConfigurationError, match="RETRIES"):
        async with LocalPipeline(distance, delivery={"retries": 1}):
            raise AssertionError("it began")
