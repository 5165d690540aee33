"""Find the Redis and the gateway that a command is to use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from milepost.cli.exits import Unreachable
from milepost.cli.local import data_folder
from milepost.cli.local.readiness import shown
from milepost.errors import ConfigurationError, JournalUnavailable
from milepost.journal import Journal
from milepost.journal.connection import connect
from milepost.observe.logs import is_cut
from milepost.settings import JournalSettings

REDIS = "redis://127.0.0.1:6379/0"
GATEWAY = "http://127.0.0.1:8000"


def redis_settings(redis_url: str | None, data: Path) -> JournalSettings:
    """Return the Redis named by the option or REDIS_URL, else the one in the folder's stack.json, else the default.

    Raises ConfigurationError if the URL cannot be used.
    """
    url = redis_url or _of_stack(data, "redis")
    return JournalSettings.read(redis_url=url or REDIS)


def gateway_url(gateway: str | None, data: Path) -> str:
    """Return the gateway named by the option, else the one in the data folder's stack.json, else port 8000 here.

    Raises ConfigurationError if the pipeline of that folder has no gateway, or the URL cannot be used.
    """
    if not gateway and _of_stack(data, "bridge") and not _of_stack(data, "gateway"):
        raise ConfigurationError(
            f"{data / data_folder.STACK}: this pipeline has no gateway; see `milepost publish --help`"
        )
    url = gateway or _of_stack(data, "gateway") or GATEWAY
    if is_cut(url):
        raise ConfigurationError("--gateway: must look like http://host:port")
    return url.rstrip("/")


def running_gateway(data: Path) -> str | None:
    """The gateway in the data folder's stack.json, or None."""
    return _of_stack(data, "gateway")


@asynccontextmanager
async def journal(settings: JournalSettings) -> AsyncIterator[Journal]:
    """Connect to Redis. Raises Unreachable with the address if it does not answer."""
    opened = Journal(connect(settings), settings)
    try:
        try:
            await opened.ping()
        except JournalUnavailable as fault:
            raise unreachable(settings, fault) from None
        async with opened.failover.running():
            yield opened
    finally:
        await opened.close()


def unreachable(settings: JournalSettings, fault: Exception) -> Unreachable:
    """Make the error for a Redis that does not answer."""
    url = shown(settings.redis_url.get_secret_value())
    why = str(fault).removeprefix("Redis: ").rstrip(".")
    return Unreachable(
        f"no Redis that can be used at {url} ({why}); start `milepost up`, or name another with --redis-url"
    )


def _of_stack(data: Path, name: str) -> str | None:
    found: Any = data_folder.read_stack(data).get(name)
    return found if isinstance(found, str) else None
