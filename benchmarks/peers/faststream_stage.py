"""FastStream as the stage `distance`: from one stream to the next. It keeps no position in the stream.

python -m benchmarks.peers.faststream_stage REDIS_URL
"""

import json
import sys
from typing import Any

import uvloop
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub

from benchmarks.peers import work


async def run(redis_url: str) -> None:
    broker = RedisBroker(redis_url, logger=None)

    @broker.subscriber(stream=StreamSub("events", last_id="0", max_records=500), max_workers=64)
    @broker.publisher(stream="calculated_distance")
    async def distance(entry: dict[str, str]) -> dict[str, Any]:
        submission = json.loads(entry["event"])["data"]
        miles = work.miles(submission["lat"], submission["long"])
        return {"email": submission["email"], "distance_from_velocity": miles}

    print("ready", flush=True)
    await FastStream(broker).run()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1]))
