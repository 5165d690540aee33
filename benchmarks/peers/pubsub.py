"""The old kind of pipeline: one process a stage, Redis pub/sub between them, nothing kept and nothing promised.

python -m benchmarks.peers.pubsub distance|store|email waiting|busy
REDIS_URL, MONGO_URL and SENT_EMAILS in the environment. `busy` asks for messages in a loop that never rests.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pymongo
import redis

from benchmarks.peers import work


def messages(client: redis.Redis, channel: str, *, busy: bool) -> Iterator[Any]:
    subscription = client.pubsub(  # type: ignore[no-untyped-call]
        ignore_subscribe_messages=True
    )
    subscription.subscribe(channel)
    subscription.get_message(timeout=5)  # the confirmation
    print("ready", flush=True)
    while True:
        message = subscription.get_message(timeout=0.0 if busy else None)
        if message:
            yield json.loads(message["data"])


def distance(client: redis.Redis, submission: dict[str, Any]) -> None:
    miles = work.miles(float(submission["lat"]), float(submission["long"]))
    found = {"email": submission["email"], "distance_from_velocity": miles}
    client.publish("calculated_distance", json.dumps(found))


def store(client: redis.Redis, found: dict[str, Any]) -> None:
    users().insert_one(found)
    client.publish("user:email", json.dumps(found["email"]))


def email(_: redis.Redis, address: str) -> None:
    user = users().find_one({"email": address}, sort=[("_id", -1)])
    if user:
        work.mail(address, user["distance_from_velocity"])


def users() -> Any:
    return mongo["milepost"]["users"]


STAGES: dict[str, tuple[str, Callable[[redis.Redis, Any], None]]] = {
    "distance": ("raw_input", distance),
    "store": ("calculated_distance", store),
    "email": ("user:email", email),
}

if __name__ == "__main__":
    mongo: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(os.environ.get("MONGO_URL"), connect=False)
    database = redis.Redis.from_url(os.environ["REDIS_URL"])
    channel, run = STAGES[sys.argv[1]]
    for message in messages(database, channel, busy=sys.argv[2] == "busy"):
        run(database, message)
