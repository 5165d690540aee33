"""FastStream as a relay: a stream subscriber that POSTs each message by aiohttp. It keeps no position in the stream.

python -m benchmarks.peers.faststream_relay REDIS_URL SINK_URL
"""

import sys

import aiohttp
import uvloop
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub

AT_ONCE = 512
"""POSTs at once, at most: as many as our bridge may have."""
HEADERS = {"content-type": "application/cloudevents+json"}


async def relay(redis_url: str, sink_url: str) -> None:
    broker = RedisBroker(redis_url, logger=None)
    app = FastStream(broker)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:

        @broker.subscriber(stream=StreamSub("events", last_id="0", max_records=AT_ONCE), max_workers=AT_ONCE)
        async def carry(entry: dict[str, str]) -> None:
            async with session.post(sink_url, data=entry["event"], headers=HEADERS) as reply:
                reply.raise_for_status()

        print("ready", flush=True)
        await app.run()


if __name__ == "__main__":
    uvloop.run(relay(sys.argv[1], sys.argv[2]))
