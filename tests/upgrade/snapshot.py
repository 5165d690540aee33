"""The keys of a Redis as a text that a person can read, and back.

Stream ids, scores and times inside values are milliseconds or microseconds of when the snapshot was made; `restore`
moves them all, so that the snapshot has just that age.
"""

import json
import re
import time
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

_TIME = re.compile(r"(?<!\d)\d{13}(?:\d{3})?(?!\d)")
"""Milliseconds, or microseconds, since 1970."""


async def take(redis: Redis) -> str:
    """Every key with its type, value and time to live in milliseconds, one a line."""
    keys = sorted([key async for key in redis.scan_iter()])
    rows = [
        {"key": key.decode(), "ttl": await redis.pttl(key), **await _value(redis, key)}
        for key in keys
        if await redis.exists(key)
    ]
    made = {"made": round(time.time() * 1000)}
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in [made, *rows]) + "\n"


async def _value(redis: Redis, key: bytes) -> dict[str, Any]:
    match await redis.type(key):
        case b"string":
            return {"string": _text(await redis.get(key))}
        case b"hash":
            return {"hash": _texts(await redis.hgetall(key))}
        case b"set":
            return {"set": sorted(_text(member) for member in await redis.smembers(key))}
        case b"zset":
            return {"zset": {_text(member): score for member, score in await redis.zrange(key, 0, -1, withscores=True)}}
        case b"stream":
            groups = await redis.xinfo_groups(key)
            return {
                "stream": [[_text(name), _texts(fields)] for name, fields in await redis.xrange(key)],
                "groups": [[_text(group["name"]), _text(group["last-delivered-id"])] for group in groups],
                "pending": [
                    [_text(group["name"]), _text(row["consumer"]), _text(row["message_id"]), row["times_delivered"]]
                    for group in groups
                    for row in await redis.xpending_range(key, group["name"], "-", "+", 1000)
                ],
            }
        case other:
            raise AssertionError(f"{key!r} is a {other!r}")


async def restore(redis: Redis, text: str, *, age: timedelta) -> None:
    """Write the snapshot into an empty Redis, as if it had been made so long ago. Times to live are as they were."""
    made = json.loads(text.splitlines()[0])["made"]
    shift = round((time.time() - age.total_seconds()) * 1000) - made

    def moved(found: re.Match[str]) -> str:
        number = int(found[0])
        return str(number + (shift if len(found[0]) == 13 else shift * 1000))

    for line in _TIME.sub(moved, text).splitlines()[1:]:
        row = json.loads(line)
        key = row["key"]
        await _write(redis, key, row)
        if row["ttl"] > 0:
            await redis.pexpire(key, row["ttl"])


async def _write(redis: Redis, key: str, row: dict[str, Any]) -> None:
    if "string" in row:
        await redis.set(key, row["string"])
    elif "hash" in row:
        await redis.hset(key, mapping=row["hash"])
    elif "set" in row:
        await redis.sadd(key, *row["set"])
    elif "zset" in row:
        await redis.zadd(key, row["zset"])
    else:
        for name, fields in row["stream"]:
            await redis.xadd(key, fields, id=name)
        for group, last in row["groups"]:
            await redis.xgroup_create(key, group, last, mkstream=True)
        for group, consumer, name, times in row["pending"]:
            await redis.xclaim(key, group, consumer, 0, [name], retrycount=times, force=True, justid=True)


def _text(value: bytes) -> str:
    return value.decode()


def _texts(found: dict[bytes, bytes]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in found.items()}
