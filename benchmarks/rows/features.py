"""The cost of each feature of a stage beside a plain hop: one of two channels, a split, order by key."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import redis

from benchmarks import fill
from benchmarks.bench import OURS, Bench, Figure, Measured
from benchmarks.harness import Harness, Stopwatch, until
from benchmarks.rows import drain
from milepost.events.batch import MOST_ANSWERS
from milepost.journal import Maintenance, Scripts, Wiring, keys
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.servers import ROOT

STAGES = ROOT / "benchmarks" / "feature_stages.py"
EVENTS = 10_000
SPLITS = 240
OF_ONE_KEY = 2_000
EMITS = ("left", "right")


async def consume(url: str) -> None:
    """Have the stages table say that the answers are consumed, so that all of them stay journaled."""
    scripts = Scripts(connect(JournalSettings.read(redis_url=url)))
    routes = {channel: Wiring([channel], [], "http://127.0.0.1:1") for channel in EMITS}
    await Maintenance(scripts, dedup=timedelta(hours=1), limit=1_000_000).beat(routes)
    await scripts.close()


def hop(
    harness: Harness, *, target: str = "plain", events: int = EVENTS, answers: int = 1, addresses: int = 0, **route: Any
) -> Measured:
    """Per answer, from the first answers in the next journals until the last."""
    asyncio.run(consume(harness.redis.url))
    fill.journal(
        harness.redis.url, (fill.submission(n, channel="submitted", addresses=addresses) for n in range(events))
    )
    function = harness.function("distance", FUNCTION_SOURCE=str(STAGES), FUNCTION_TARGET=target)
    whole = {"name": "stage", "consumes": "submitted", "emits": "left", "url": function.url, "batch": 32, **route}
    with redis.Redis.from_url(harness.redis.url) as client:

        def journaled() -> int:
            return sum(client.xlen(keys.journal(channel)) for channel in EMITS)

        bridge = harness.bridge(whole, ready=False)
        until(journaled, every=0.001)
        before, watch = journaled(), Stopwatch(bridge, function, redis=harness.redis)
        until(lambda: journaled() == events * answers, every=0.005)
        return watch.stop(events * answers - before)


def ordered(addresses: int, events: int = EVENTS) -> Mapping[str, Any]:
    """Arguments of a trial with so many keys."""
    return {"order": "email", "addresses": addresses, "events": events}


def figures(what: str) -> tuple[Figure, ...]:
    return (
        Figure("rate", what, "events/s", more_is_better=True),
        Figure("cpu", f"{what}: CPU", "CPU s/1000"),
        Figure("redis", f"{what}: CPU of its Redis", "CPU s/1000"),
    )


BENCHES = [
    Bench(
        "features",
        figures("one hop of a stage that does nothing, an answer"),
        {
            OURS: hop,
            "one of two": partial(hop, target="one_of_two", emits=EMITS),
            f"split of {MOST_ANSWERS}": partial(hop, target="split", events=SPLITS, answers=MOST_ANSWERS, split=True),
            "order, 1 key": partial(hop, **ordered(1, OF_ONE_KEY)),
            "order, 100 keys": partial(hop, **ordered(100)),
            "order, 100,000 keys": partial(hop, **ordered(100_000)),
        },
        durable=False,
    ),
    Bench(
        "order",
        figures("bridge, 40,000 events into a fast sink"),
        {
            OURS: drain.ours,
            "order, 1 key": partial(drain.ours, **ordered(1, OF_ONE_KEY)),
            "order, 100 keys": partial(drain.ours, **ordered(100)),
            "order, 100,000 keys": partial(drain.ours, **ordered(100_000, drain.EVENTS)),
        },
        durable=False,
    ),
]
