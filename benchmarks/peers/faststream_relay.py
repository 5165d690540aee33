"""FastStream as a relay: a stream subscriber that POSTs each message by aiohttp. At most once, as it comes.

python -m benchmarks.peers.faststream_relay REDIS_URL SINK_URL
"""

import sys

import aiohttp
import uvloop
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub

HEADERS = {"content-type": "application/cloudevents+json"}


async def relay(redis_url: str, sink_url: str) -> None:
    broker = RedisBroker(redis_url, logger=None)
    app = FastStream(broker)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=128)) as session:

        @broker.subscriber(stream=StreamSub("events", last_id="0", max_records=500), max_workers=64)
        async def carry(entry: dict[str, str]) -> None:
            async with session.post(sink_url, data=entry["event"], headers=HEADERS) as reply:
                reply.raise_for_status()

        print("ready", flush=True)
        await app.run()


if __name__ == "__main__":
    uvloop.run(relay(sys.argv[1], sys.argv[2]))
