"""Whether a server is there and usable, by its URL: Redis, MongoDB or HTTP."""

import asyncio
import contextlib
import json
import re
from urllib.parse import urlsplit

from pydantic import SecretStr
from redis.exceptions import RedisError

from milepost.cli.exits import Unreachable
from milepost.journal import keys
from milepost.journal.connection import connect
from milepost.observe.logs import is_cut
from milepost.settings import JournalSettings

ANSWER_WITHIN = 5.0


async def fault_of(url: str) -> str | None:
    """Try the server once. Returns why it is not ready, or None if it is."""
    scheme = url.partition("://")[0].lower()  # urlsplit takes no list of servers with brackets
    probe = _http if scheme == "http" else _mongo if scheme.startswith("mongodb") else _redis
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            return await probe(url)
    except (OSError, RedisError) as fault:  # TimeoutError is an OSError
        return str(fault) or "no answer in time"


async def bridges_on(redis_url: str) -> int:
    """Count the bridges that are connected to this Redis. Each subscribes to the channel of the lease.

    Raises Unreachable.
    """
    client = connect(JournalSettings(redis_url=SecretStr(redis_url)))
    try:
        ((_, bridges),) = await client.pubsub_numsub(keys.LEASE)
    except (OSError, RedisError) as fault:
        raise Unreachable(f"REDIS_URL: cannot ask for the bridges on {shown(redis_url)}: {fault}") from None
    finally:
        await client.aclose()
    return int(bridges)


def shown(url: str) -> str:
    """Return the URL without user, password and query; only its scheme if a `/`, `?` or `#` may be of a password."""
    scheme, _, rest = url.partition("://")
    if is_cut(url):
        return f"{scheme}://…"
    return f"{scheme}://{re.split('[?#]', rest)[0].rpartition('@')[2]}"


async def _http(url: str) -> str | None:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    with contextlib.closing(writer):
        writer.write(f"GET {parts.path or '/'} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode(errors="replace").partition("\r\n\r\n")
    _, status, *_ = [*head.split(), "", ""]
    if status == "200":
        return None
    with contextlib.suppress(ValueError, LookupError, TypeError):
        return f"answers {status}: {json.loads(body)['detail']}"
    return f"answers {status or 'no HTTP'}"


async def _redis(url: str) -> str | None:
    client = connect(JournalSettings(redis_url=SecretStr(url)), retries=0)
    try:
        await client.ping()
    finally:
        await client.aclose()
    return None


async def _mongo(url: str) -> str | None:
    from pymongo import AsyncMongoClient
    from pymongo.errors import PyMongoError

    try:
        async with AsyncMongoClient[dict[str, object]](url, serverSelectionTimeoutMS=2000) as client:
            await client.admin.command("hello")
    except (PyMongoError, ValueError) as fault:
        return type(fault).__name__  # its text may hold a part of the password
    return None
