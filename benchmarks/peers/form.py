"""The old kind's form handler: publishes and answers, whether or not anyone hears.

uvicorn benchmarks.peers.form:app     REDIS_URL in the environment
"""

import json
import os
from typing import Annotated

import redis.asyncio
from fastapi import FastAPI, Form

app = FastAPI()
database = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])


@app.get("/")
async def alive() -> None:
    """So that a probe sees it."""


@app.post("/distance")
async def submit(email: Annotated[str, Form()], lat: Annotated[float, Form()], long: Annotated[float, Form()]) -> None:
    await database.publish("raw_input", json.dumps({"email": email, "lat": lat, "long": long}))
