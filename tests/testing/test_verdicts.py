"""The exceptions of a function, and the fate of its event at a real bridge: each row of docs/stages.md."""

from collections import Counter

import pytest

from milepost import Defer, Payload, Reject, Unavailable, stage
from milepost.events.event import Event
from milepost.journal import keys
from milepost.testing import LocalPipeline
from milepost.testing.servers import eventually

NO_REPEATS = {"retry": 0, "crashRetry": 0}


class Place(Payload, channel="place"):
    name: str


class City(Payload, channel="city"):
    name: str


async def test_rejected_event_becomes_a_dead_letter_with_its_reason() -> None:
    calls: Counter[str] = Counter()

    def city(place: Place) -> City:
        calls[place.name] += 1
        if place.name == "the pole":
            raise Reject("no city is so far north")
        return City(name=place.name)

    async with LocalPipeline(stage(city, inline=True)) as pipeline:
        bad = await pipeline.publish(Place(name="the pole"))
        good = await pipeline.publish(Place(name="London"))
        assert (await pipeline.published("city", good)).data == {"name": "London"}
        await eventually(lambda: pipeline.journal.admin.dead_letters("city"))
        (letter,) = await pipeline.journal.admin.dead_letters("city")
        assert (letter.id, letter.status, letter.attempts) == (bad, 422, 0)
        assert letter.reason == "HTTP 422: no city is so far north"
        assert calls == {"the pole": 1, "London": 1}


@pytest.mark.parametrize("verdict", [Unavailable, Defer])
async def test_unavailable_and_deferred_events_are_retried_uncounted(verdict: type[Unavailable | Defer]) -> None:
    """With no repeats allowed, the first failure that counted would bury it."""
    calls: Counter[str] = Counter()

    def city(place: Place, event: Event) -> City:
        calls[event.id] += 1
        if calls[event.id] < 3:
            raise verdict("not now", retry_after=0)
        return City(name=place.name)

    async with LocalPipeline(stage(city, inline=True), delivery=NO_REPEATS) as pipeline:
        event_id = await pipeline.publish(Place(name="London"))
        assert (await pipeline.published("city", event_id)).data == {"name": "London"}
        assert calls[event_id] == 3


@pytest.mark.parametrize("verdict", [Unavailable, Defer])
async def test_retries_wait_for_retry_after(verdict: type[Unavailable | Defer]) -> None:
    def city(place: Place) -> City:
        raise verdict(place.name, retry_after=120)

    async with LocalPipeline(stage(city, inline=True)) as pipeline:
        await pipeline.publish(Place(name="London"))
        await eventually(lambda: pipeline.redis.zcard(keys.parked("city")))
        ((_, due),) = await pipeline.redis.zrange(keys.parked("city"), 0, -1, withscores=True)
        seconds, _ = await pipeline.redis.time()
        assert 100 < due / 1000 - seconds <= 121


@pytest.mark.parametrize("batch", [1, 8])
async def test_deferred_events_do_not_delay_others(batch: int) -> None:
    async def city(place: Place) -> City:
        if place.name.startswith("full"):
            raise Defer("452 4.2.2 over quota", retry_after=120)
        return City(name=place.name)

    async with LocalPipeline(stage(city), delivery={**NO_REPEATS, "batch": batch}) as pipeline:
        names = [f"{kind}-{number}" for number in range(6) for kind in ("full", "free")]
        ids = {name: await pipeline.publish(Place(name=name)) for name in names}
        for name in names:
            if name.startswith("free"):
                assert (await pipeline.published("city", ids[name])).data == {"name": name}

        async def six_are_parked() -> bool:
            return await pipeline.redis.zcard(keys.parked("city")) == 6

        await eventually(six_are_parked)
        assert await pipeline.journal.admin.dead_letters("city") == []


async def test_deferred_event_becomes_a_dead_letter_at_its_deadline() -> None:
    def city(_place: Place) -> City:
        raise Defer("452 4.2.2 over quota", retry_after=1)

    async with LocalPipeline(stage(city, inline=True), delivery={"deadline": "PT1S"}) as pipeline:
        event_id = await pipeline.publish(Place(name="London"))
        await eventually(lambda: pipeline.journal.admin.dead_letters("city"))
        (letter,) = await pipeline.journal.admin.dead_letters("city")
        assert (letter.id, letter.status, letter.attempts) == (event_id, 409, 0)
        assert letter.reason == "deadline passed; last: HTTP 409: 452 4.2.2 over quota"
