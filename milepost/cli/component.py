"""What a local pipeline consists of: processes, each with its command, its environment and its sign of readiness."""

import asyncio
import enum
import errno
import itertools
import random
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from milepost.errors import ConfigurationError

HOST = "127.0.0.1"

PORTS = range(20_000, 32_000)
"""Where free ports are looked for: below those that Linux and macOS give to outgoing connections. Were it one of
those, a client trying a component that is down could connect to itself, and keep the port from it.
"""


class Rank(enum.IntEnum):
    """What stands on what: servers start first; what ends goes from the highest down."""

    SERVER = 0
    FUNCTION = 1
    BRIDGE = 2
    GATEWAY = 3


@dataclass(frozen=True, kw_only=True)
class Component:
    """One process of the pipeline. `env` is its whole environment; `folder` its working directory."""

    name: str
    rank: Rank
    command: Sequence[str]
    url: str
    env: Mapping[str, str]
    folder: Path
    is_ready: Callable[[], Awaitable[bool]]
    unshown: bytes | None = None
    """Log lines that hold this are not shown."""


def answers(client: httpx.AsyncClient, url: str) -> Callable[[], Awaitable[bool]]:
    """Whether a GET of `url` is answered 200."""

    async def is_ready() -> bool:
        if not await is_listening(url):
            return False
        try:
            return (await client.get(url)).status_code == 200
        except httpx.HTTPError:
            return False

    return is_ready


async def is_listening(url: str) -> bool:
    """Whether something accepts connections there: cheap to ask often, where clients are slow to find out."""
    parts = urlsplit(url)
    try:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except OSError:
        return False
    writer.close()
    return True


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that nothing listens on. Raises ConfigurationError if there are too few."""
    candidates = random.sample(PORTS, len(PORTS))
    found = list(itertools.islice((port for port in candidates if why_taken(port) is None), count))
    if len(found) < count:
        raise ConfigurationError(f"no free port between {PORTS.start} and {PORTS.stop}: stop something")
    return found


def why_taken(port: int) -> str | None:
    """Why this port of 127.0.0.1 cannot be listened on, in words; None if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as fault:
            return "already taken" if fault.errno == errno.EADDRINUSE else (fault.strerror or str(fault)).lower()
    return None
