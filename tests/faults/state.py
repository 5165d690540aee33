"""The result of a row, read from its files and servers: mails, records in MongoDB, events in Redis."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pymongo

from milepost.journal import keys
from tests.faults.history import History, Operation


def mail_line(address: str, miles: float) -> str:
    """The line of the mail that says this distance."""
    return f"Email sent to: {address}; Message: You are {miles} miles from Velocity."


class Mailbox:
    """The file of mails, read as it grows. Each line becomes an operation of the history."""

    def __init__(self, path: Path, history: History) -> None:
        self.lines: Counter[str] = Counter()
        self._path = path
        self._history = history
        self._read = 0
        self._looked = time.monotonic()

    def look(self) -> int:
        """Read new lines; how many there are by now."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                whole = file.read().rpartition(b"\n")[0]
            now = time.monotonic()
            if whole:
                self._read += len(whole) + 1
                for line in whole.decode().split("\n"):
                    self.lines[line] += 1
                    address = line.partition(";")[0].rpartition(" ")[2]
                    self._history.add(Operation("mail", self._looked, now, to=address, line=line))
            self._looked = now
        return self.lines.total()


def records(url: str) -> Iterator[Operation]:
    """The records of `store` and `email`."""
    now = time.monotonic()
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        database = client["milepost"]
        for user in database["users"].find():
            line = mail_line(user["email"], user["distance_from_velocity"])
            yield Operation("record", now, now, user["_id"], to=user["email"], line=line)
        for mail in database["mails"].find():
            line = mail_line(mail["email"], mail["distance_from_velocity"])
            yield Operation("mark", now, now, mail["_id"], mail["taken"], to=mail["email"], line=line)


async def left(redis: Any) -> list[Operation]:
    """Events in Redis that a stage has not finished, by where. `journals` includes retries."""
    found: list[tuple[str, str]] = []
    async for key in redis.scan_iter("{milepost}:*"):
        name = key.decode()
        if name.startswith((keys.journal(""), keys.RETRIES)):
            found += [("journals", event_id) for event_id in ids_in(await _unfinished(redis, name))]
        elif name.startswith(keys.parked("")):
            found += [("parked", _id(member.partition(b"\n")[2])) for member in await redis.zrange(name, 0, -1)]
        elif name.startswith(keys.HELD):
            found += [("held", _id(member.partition(b"\n")[2])) for member in await redis.zrange(name, 0, -1)]
        elif name.startswith(keys.dead("")):
            found += [("dead", row[b"id"].decode()) for _, row in await redis.xrange(name)]
    now = time.monotonic()
    return [Operation("left", now, now, event_id, by=where) for where, event_id in found]


async def _unfinished(redis: Any, stream: str) -> list[tuple[bytes, Mapping[bytes, bytes]]]:
    """Entries that a group has not read or not settled; finished ones may still lie there until the next trim."""
    found: dict[bytes, Mapping[bytes, bytes]] = {}
    for group in await redis.xinfo_groups(stream):
        found |= dict(await redis.xrange(stream, b"(" + group["last-delivered-id"]))
        for pending in await redis.xpending_range(stream, group["name"], "-", "+", 100_000):
            found |= dict(await redis.xrange(stream, pending["message_id"], pending["message_id"]))
    return sorted(found.items())


def ids_in(rows: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> list[str]:
    """Ids of the events in these entries of a journal."""
    return [_id(row[b"event"]) for _, row in rows]


def _id(event: bytes) -> str:
    return str(json.loads(event)["id"])
