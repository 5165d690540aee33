"""The real servers of `milepost.testing`, and those that only this repository's tests need."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pymongo
from pymongo.errors import PyMongoError

from milepost import stage_values
from milepost.cli.local import commands
from milepost.testing.servers import (
    HOST,
    WITHIN,
    Function,
    Server,
    Valkey,
    eventually,
    free_port,
    http_status,
    wait_for,
)

__all__ = [
    "ANSWER_WITHIN",
    "HOST",
    "REDIS_SERVER",
    "ROOT",
    "STAGES",
    "WITHIN",
    "Function",
    "Module",
    "Mongo",
    "Redis",
    "Server",
    "Valkey",
    "eventually",
    "free_port",
    "http_status",
    "wait_for",
]

ROOT = Path(__file__).resolve().parent.parent
Server.project = ROOT  # wherever pytest was started

ANSWER_WITHIN = WITHIN
"""Seconds that a test's HTTP client waits: no test is about the speed of the machine."""

STAGES = [entry.name for entry in stage_values.read(ROOT)]

REDIS_SERVER = shutil.which("redis-server")
"""Debian's Redis, where it is installed."""


class Redis(Valkey):
    """Debian's redis-server; ask REDIS_SERVER first whether it is here."""

    name = "redis"

    def binary(self) -> str:
        return REDIS_SERVER or "redis-server"


class Mongo(Server):
    """The embedded MongoDB-compatible server, every write on disk before it is answered."""

    name = "mongo"
    ends_soon = False

    @property
    def url(self) -> str:
        """Its URL without a database: add one of your own, `f"{mongo.url}/mine"`."""
        return f"mongodb://{HOST}:{self.port}"

    def argv(self) -> list[str]:
        return commands.mongo(self.port, self.folder / "data", "--cache-size", "64M")

    def is_ready(self) -> bool:
        client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(self.url, serverSelectionTimeoutMS=100)
        with client:
            try:
                client.admin.command("ping")
            except PyMongoError:
                return False
            return True


class Module(Server):
    """A component run as `python -m module`: HOST and PORT in its environment, `ready` its readiness path."""

    def __init__(
        self,
        folder: Path,
        module: str,
        *,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        ready: str = "/readyz",
        args: tuple[str, ...] = (),
    ) -> None:
        self.name = module
        self.module = module
        self.ready = ready
        self.args = args
        super().__init__(folder, port=port, env=env)
        self.env = {"HOST": HOST, "PORT": str(self.port), **self.env}

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def argv(self) -> list[str]:
        return [sys.executable, "-m", self.module, *self.args]

    def is_ready(self) -> bool:
        return http_status(self.port, self.ready) == 200
