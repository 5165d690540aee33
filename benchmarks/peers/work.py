"""The work of the contenders' stages, however an event reaches them."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import pymongo
from geopy import units
from geopy.distance import geodesic

OFFICE = (32.080058, 34.864535)
WGS84 = geodesic()
"""One instance for all places, as our stage has it: an instance for each costs a fifth more."""


def miles(lat: float, long: float) -> float:
    """The distance from the office."""
    return units.miles(kilometers=WGS84.measure((lat, long), OFFICE))


def mail(address: str, miles: float) -> None:
    """Send an e-mail: a line in the file SENT_EMAILS."""
    with Path(os.environ["SENT_EMAILS"]).open("a") as file:
        file.write(f"Email sent to: {address}; Message: You are {miles} miles from Velocity.\n")


@cache
def users() -> Any:
    """The collection that `store` inserts into and `email` reads."""
    client: pymongo.AsyncMongoClient[dict[str, Any]] = pymongo.AsyncMongoClient(os.environ["MONGO_URL"])
    return client["milepost"]["users"]


async def store(address: str, miles: float) -> None:
    """Insert the distance of an address."""
    await users().insert_one({"email": address, "distance_from_velocity": miles})


async def email(address: str) -> None:
    """Mail the latest distance of an address."""
    user = await users().find_one({"email": address}, sort=[("_id", -1)])
    if user:
        mail(address, user["distance_from_velocity"])
