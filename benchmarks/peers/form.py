"""The old kind's form handler: publishes and answers, whether or not anyone hears.

uvicorn benchmarks.peers.form:app     REDIS_URL in the environment
"""

import json
import os

import redis.asyncio

from benchmarks.peers.door import door

database = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])


async def submit(address: str, lat: float, long: float) -> None:
    await database.publish("raw_input", json.dumps({"email": address, "lat": lat, "long": long}))


app = door(submit)
