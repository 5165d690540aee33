"""What `milepost up` runs, read off the project and its stages table."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx

from milepost import table
from milepost.cli import servers
from milepost.cli.component import HOST, Component, Rank, answers, free_ports, why_taken
from milepost.errors import ConfigurationError
from milepost.settings import JournalSettings

OWN_NAMES = ("milepost", "redis", "mongo", "bridge", "gateway")

NEEDED = ("functions_framework", "uvicorn", "fastapi", "pymongo")
"""What the extra `cli` alone does not bring."""

NOT_HANDED_ON = ("REDIS_URL", "MONGO_URL", "HOST", "PORT", "ROUTES", "K_SINK")
"""Variables that each component is told, or not, for itself."""


@dataclass(frozen=True)
class Plan:
    """The components, and where things are. `mongo` and `redis` are the servers' URLs, embedded or real."""

    components: Sequence[Component]
    redis: str
    mongo: str
    sent_emails: Path

    @property
    def gateway(self) -> str:
        return self._url_of("gateway")

    @property
    def names(self) -> list[str]:
        return [component.name for component in self.components]

    def of(self, *ranks: Rank) -> list[Component]:
        """The components of these ranks."""
        return [component for component in self.components if component.rank in ranks]

    def stack(self, pids: Mapping[str, int]) -> dict[str, object]:
        """What stack.json says while these processes run."""
        return {
            "gateway": self.gateway,
            "bridge": self._url_of("bridge"),
            "redis": self.redis,
            "mongo": self.mongo,
            "functions": {function.name: function.url for function in self.of(Rank.FUNCTION)},
            "sent_emails": str(self.sent_emails),
            "pids": dict(pids),
        }

    def _url_of(self, name: str) -> str:
        return next(component.url for component in self.components if component.name == name)


def stages(project: Path) -> list[table.Entry]:
    """The project's stages, each with its source. Raises ConfigurationError naming what is missing."""
    missing = [module for module in NEEDED if find_spec(module) is None]
    if missing:
        raise ConfigurationError(f"not installed: {', '.join(missing)}; pip install 'milepost[run]'")
    entries = table.read(project)
    for entry in entries:
        if entry.name in OWN_NAMES:
            raise ConfigurationError(f"{project / table.VALUES}: no stage can be called {entry.name}")
        if not source(project, entry.name).is_file():
            raise ConfigurationError(
                f"stage {entry.name}: {source(project, entry.name)} is missing; write it, or take the stage out of "
                f"{project / table.VALUES}"
            )
    if not (project / "gateway" / "__main__.py").is_file():
        raise ConfigurationError(f"{project / 'gateway'}: missing; run this in the project's folder, or name --project")
    return entries


def source(project: Path, stage: str) -> Path:
    """Where a stage's function is."""
    return project / "functions" / stage / "main.py"


def real_servers(environment: Mapping[str, str]) -> tuple[str | None, str | None]:
    """REDIS_URL and MONGO_URL, where they name real servers. Raises ConfigurationError if one is no such URL."""
    redis, mongo = environment.get("REDIS_URL") or None, environment.get("MONGO_URL") or None
    JournalSettings.read(**({"redis_url": redis} if redis else {}))
    if mongo and not mongo.startswith(("mongodb://", "mongodb+srv://")):
        raise ConfigurationError("MONGO_URL: must look like mongodb://[user:password@]host:port/database")
    return redis, mongo


def port_of_gateway(wanted: int) -> int:
    """The wanted port, or any free one for 0. Raises ConfigurationError if it cannot be had."""
    if wanted == 0:
        return free_ports(1)[0]
    why = why_taken(wanted)
    if why is not None:
        raise ConfigurationError(f"port {wanted} of {HOST}: {why}; choose another with --port (0: any free one)")
    return wanted


def draw(
    project: Path,
    data: Path,
    entries: Sequence[table.Entry],
    port: int,
    client: httpx.AsyncClient,
    environment: Mapping[str, str],
) -> Plan:
    """Lay out the components. Raises ConfigurationError. `client` asks them whether they are ready."""
    redis, mongo = real_servers(environment)
    ports = iter(free_ports(len(entries) + 3))
    base = _base(project, environment)
    embedded = []
    if redis is None:
        embedded.append(servers.valkey(data, next(ports), base))
        redis = embedded[-1].url
    if mongo is None:
        embedded.append(servers.secantus(data, next(ports), base))
        mongo = embedded[-1].url
    sent_emails = data / "sent_emails"
    sent_emails.touch()
    told = {"MONGO_URL": mongo, "SENT_EMAILS": str(sent_emails)}
    functions = [_function(project, entry, next(ports), {**entry.env, **base, **told}, client) for entry in entries]
    wiring = {**base, "REDIS_URL": redis}
    routes = [
        {**entry.delivery, "name": entry.name, "consumes": entry.consumes, "emits": entry.emits, "url": function.url}
        for entry, function in zip(entries, functions, strict=True)
    ]
    bridge_env = {**wiring, "ROUTES": json.dumps(routes)}
    return Plan(
        components=[
            *embedded,
            *functions,
            _module("bridge", "milepost.bridge", Rank.BRIDGE, project, next(ports), bridge_env, client),
            _module("gateway", "gateway", Rank.GATEWAY, project, port, wiring, client),
        ],
        redis=redis,
        mongo=mongo,
        sent_emails=sent_emails,
    )


def _base(project: Path, environment: Mapping[str, str]) -> dict[str, str]:
    path = [str(project), *filter(None, [environment.get("PYTHONPATH")])]
    return {
        **{name: value for name, value in environment.items() if name not in NOT_HANDED_ON},
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
    }


def _function(
    project: Path, entry: table.Entry, port: int, env: Mapping[str, str], client: httpx.AsyncClient
) -> Component:
    url = f"http://{HOST}:{port}"
    listen = ["--host", HOST, "--port", str(port), "--log-level", "warning", "--no-access-log", "--lifespan", "on"]
    return Component(
        name=entry.name,
        rank=Rank.FUNCTION,
        command=[sys.executable, "-m", "uvicorn", "functions_framework.aio:app", *listen],
        url=url,
        env={**env, "FUNCTION_SOURCE": str(source(project, entry.name)), "FUNCTION_TARGET": "main"},
        folder=project,
        is_ready=answers(client, url),
    )


def _module(
    name: str,
    module: str,
    rank: Rank,
    project: Path,
    port: int,
    env: Mapping[str, str],
    client: httpx.AsyncClient,
) -> Component:
    url = f"http://{HOST}:{port}"
    return Component(
        name=name,
        rank=rank,
        command=[sys.executable, "-m", module],
        url=url,
        env={**env, "HOST": HOST, "PORT": str(port)},
        folder=project,
        is_ready=answers(client, f"{url}/readyz"),
    )
