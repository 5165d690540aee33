"""Submissions of the gateway's tests, and the form in which they compare them."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import redis

from milepost.events.event import Event
from milepost.journal import Journal, keys

LONDON = {"email": "ada@example.org", "lat": 51.5074, "long": -0.1278}

Published = Callable[[], Awaitable[list[dict[str, Any]]]]
"""Reads the events in the journal of raw_input, oldest first."""

STAGES = {
    "distance": ("raw_input", "calculated_distance"),
    "store": ("calculated_distance", "user:email"),
    "email": ("user:email", "email:sent"),
}


def tell_stages(url: str, stages: Mapping[str, tuple[str, str]] = STAGES) -> None:
    """Write stages, those of the pipeline unless told otherwise, into the route table of the Redis at this URL."""
    with redis.Redis.from_url(url) as client:
        for name, (consumes, emits) in stages.items():
            row = {"consumes": [consumes], "emits": [emits], "url": "http://127.0.0.1:1", "beat": 0}
            client.hset(keys.STAGES, name, json.dumps(row))


async def reach(journal: Journal, event_id: str, *channels: str) -> None:
    """Publish an event of the submission on each of these channels."""
    for channel in channels:
        await journal.publish(Event(id=event_id, source=f"/test/{channel}", type=channel, data={"of": channel}))
