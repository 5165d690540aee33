"""What came of it, counted from the ground: the lines of e-mails, the records in MongoDB, what lies in Redis."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pymongo

from milepost.journal import keys
from tests.faults.load import Fate, Sent


@dataclass
class Row:
    """One line of the table; the fields, in this order, are its columns and the keys of its JSON."""

    fault: str
    accepted: int
    emails: int
    lost: int
    doubled: int
    stuck: int
    resent: int
    destroyed: int
    recover_s: float

    @classmethod
    def columns(cls) -> list[str]:
        return [column.name for column in fields(cls)]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Mailbox:
    """The file of e-mails, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.lines: Counter[str] = Counter()
        self._path = path
        self._read = 0

    def look(self) -> int:
        """Read what is new; how many lines there are by now."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                whole = file.read().rpartition(b"\n")[0]
            if whole:
                self._read += len(whole) + 1
                self.lines.update(whole.decode().split("\n"))
        return self.lines.total()


@dataclass(frozen=True)
class Records:
    """What MongoDB holds: how often each e-mail was taken, and how many records each distance has."""

    taken: Mapping[str, int]
    users: Mapping[tuple[str, str], int]

    @classmethod
    def read(cls, url: str) -> "Records":
        taken: Counter[str] = Counter()
        users: Counter[tuple[str, str]] = Counter()
        with pymongo.MongoClient[dict[str, Any]](url) as client:
            database = client["milepost"]
            for mail in database["mails"].find():
                taken[f"Email sent to: {mail['email']}; Message: {mail['message']}"] += mail["taken"] - 1
            for user in database["users"].find():
                users[user["email"], repr(user["distance_from_velocity"])] += 1
        return cls(taken, users)


@dataclass
class Left:
    """Ids of the events in Redis that a stage has not finished, by where. `journals`: retries among them."""

    journals: list[str] = field(default_factory=list)
    parked: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)

    @classmethod
    async def read(cls, redis: Any) -> "Left":
        left = cls()
        async for key in redis.scan_iter("{milepost}:*"):
            name = key.decode()
            if name.startswith((keys.journal(""), keys.RETRIES)):
                left.journals += ids_in(await _unfinished(redis, name))
            elif name.startswith(keys.parked("")):
                left.parked += [_id(member.partition(b"\n")[2]) for member in await redis.zrange(name, 0, -1)]
            elif name.startswith(keys.dead("")):
                left.dead += [row[b"id"].decode() for _, row in await redis.xrange(name)]
        return left

    @property
    def unfinished(self) -> list[str]:
        return self.journals + self.parked + self.dead


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


@dataclass(frozen=True)
class Sum:
    """The figures of a row."""

    accepted: int
    emails: int
    lost: int
    doubled: int
    stuck: int
    resent: int
    destroyed: int


def count(
    sent: Iterable[Sent], lines: Mapping[str, int], records: Records, left: Left, destroyed: Iterable[str]
) -> Sum:
    """The figures. An e-mail nobody is known to have asked for is doubled; a wrong distance is lost and doubled."""
    unfinished, gone = set(left.unfinished), set(destroyed)
    known = {one.line: one for one in sent}
    accepted = [one for one in known.values() if one.fate is Fate.ACCEPTED]
    missing = [one for one in accepted if not lines.get(one.line)]
    lost = sum(one.id not in unfinished and one.id not in gone for one in missing)
    doubled = resent = 0
    for line, times in lines.items():
        extra = times - 1 if line in known else times
        again = min(extra, records.taken.get(line, 0))
        resent += again
        doubled += extra - again
    doubled += sum(times - 1 for times in records.users.values())
    return Sum(
        accepted=len(accepted),
        emails=sum(lines.values()),
        lost=lost,
        doubled=doubled,
        stuck=len(left.unfinished),
        resent=resent,
        destroyed=sum(one.id in gone for one in missing),
    )
