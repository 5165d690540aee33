"""What `milepost up` runs, read off the project and its stages table."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from milepost import table
from milepost.cli import servers
from milepost.cli.component import HOST, Component, Rank, answers, free_ports, why_taken
from milepost.errors import ConfigurationError
from milepost.settings import JournalSettings

OWN_NAMES = ("milepost", "redis", "mongo", "bridge", "gateway")

KEPT = ("lock", "redis", "mongo", "gateway", "bridge", "functions", "pids")
"""Names in the data folder, or in stack.json, that no file of a stage can have."""

NOT_HANDED_ON = ("REDIS_URL", "MONGO_URL", "HOST", "PORT", "ROUTES", "STAGES", "K_SINK", "OPS_TOKEN")
"""Variables that each component is told, or not, for itself."""


@dataclass(frozen=True)
class Plan:
    """The components, and where things are. `mongo` and `redis` are the servers' URLs, embedded or real; `mongo` is
    None where no stage wants one. `files` are those of the stages, by name.
    """

    components: Sequence[Component]
    redis: str
    mongo: str | None
    files: Mapping[str, Path]

    @property
    def door(self) -> str:
        """Where events come in: the gateway's URL, the bridge's in a project without one."""
        return self._urls.get("gateway") or self._urls["bridge"]

    @property
    def names(self) -> list[str]:
        return [component.name for component in self.components]

    def of(self, *ranks: Rank) -> list[Component]:
        """The components of these ranks."""
        return [component for component in self.components if component.rank in ranks]

    def stack(self, pids: Mapping[str, int]) -> dict[str, object]:
        """What stack.json says while these processes run."""
        found = {
            "gateway": self._urls.get("gateway"),
            "bridge": self._urls["bridge"],
            "redis": self.redis,
            "mongo": self.mongo,
            "functions": {function.name: function.url for function in self.of(Rank.FUNCTION)},
            **{name: str(path) for name, path in self.files.items()},
            "pids": dict(pids),
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def _urls(self) -> dict[str, str]:
        return {component.name: component.url for component in self.components}


def stages(project: Path) -> list[table.Entry]:
    """The project's stages, each with its source. Raises ConfigurationError naming what is missing."""
    entries = table.read(project)
    for entry in entries:
        if entry.name in OWN_NAMES:
            raise ConfigurationError(f"{project / table.VALUES}: no stage can be called {entry.name}")
        if entry.url is None and not source(project, entry.name).is_file():
            raise ConfigurationError(
                f"stage {entry.name}: {source(project, entry.name)} is missing; write it, or take the stage out of "
                f"{project / table.VALUES}"
            )
        for name in entry.files.values():
            if name in KEPT:
                raise ConfigurationError(f"{project / table.VALUES}: no file of {entry.name} can be called {name}")
    missing = [module for module in _needed(project, entries) if find_spec(module) is None]
    if missing:
        raise ConfigurationError(f"not installed: {', '.join(missing)}; pip install 'milepost[run]'")
    return entries


def _needed(project: Path, entries: Sequence[table.Entry]) -> Iterator[str]:
    """Modules that the extra `cli` alone does not bring."""
    yield from ("functions_framework", "uvicorn", "httptools")
    if has_gateway(project):
        yield "fastapi"
    if _wants_mongo(entries):
        yield "pymongo"


def has_gateway(project: Path) -> bool:
    """Whether the project has a gateway; else events come in by the bridge and by `milepost publish`."""
    return (project / "gateway" / "__main__.py").is_file()


def _wants_mongo(entries: Sequence[table.Entry]) -> bool:
    return any(entry.mongo for entry in entries)


def source(project: Path, stage: str) -> Path:
    """Where a stage's function is."""
    return project / "functions" / stage / "main.py"


def real_servers(environment: Mapping[str, str]) -> tuple[str | None, str | None]:
    """REDIS_URL and MONGO_URL, where they name real servers. Raises ConfigurationError if one is no such URL."""
    redis, mongo = environment.get("REDIS_URL") or None, environment.get("MONGO_URL") or None
    JournalSettings.read(**({"redis_url": redis} if redis else {}))
    if mongo and not mongo.startswith(("mongodb://", "mongodb+srv://")):
        raise ConfigurationError(f"MONGO_URL: {servers.MONGO_FORM}")
    return redis, mongo


def port_of_door(wanted: int) -> int:
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
    headers = _headers(entries, environment)
    redis, mongo = real_servers(environment)
    ports = iter(free_ports(len(entries) + 3))
    base = _base(project, {name: value for name, value in environment.items() if name not in headers})
    embedded = []
    if redis is None:
        embedded.append(servers.valkey(data, next(ports), base))
        redis = embedded[-1].url
    if not _wants_mongo(entries):
        mongo = None
    elif mongo is None:
        embedded.append(servers.secantus(data, next(ports), base))
        mongo = embedded[-1].url
    files = {name: data / name for entry in entries for name in entry.files.values()}
    for path in files.values():
        path.touch()
    functions = {
        entry.name: _function(project, entry, next(ports), {**entry.env, **base, **_told(entry, mongo, files)}, client)
        for entry in entries
        if entry.url is None
    }
    wiring = {**base, "REDIS_URL": redis}
    bridge_env = {**wiring, **headers, "ROUTES": json.dumps([_route(entry, functions) for entry in entries])}
    wired = [
        {"name": entry.name, "consumes": entry.consumes, "emits": entry.emits, "external": entry.external}
        for entry in entries
    ]
    ops = {name: environment[name] for name in ("OPS_TOKEN",) if name in environment}  # the gateway's alone
    gateway_env = {**wiring, **ops, "STAGES": json.dumps(wired)}
    gateway = [_module("gateway", "gateway", Rank.GATEWAY, project, port, gateway_env, client)]
    if not has_gateway(project):
        gateway, ports = [], iter([port])
    bridge = _module("bridge", "milepost.bridge", Rank.BRIDGE, project, next(ports), bridge_env, client)
    return Plan([*embedded, *functions.values(), bridge, *gateway], redis=redis, mongo=mongo, files=files)


def _headers(entries: Sequence[table.Entry], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables with the headers of receivers elsewhere: secrets, and the bridge's alone."""
    found: dict[str, str] = {}
    for entry in entries:
        for header, variable in entry.variables.items():
            if not environment.get(variable):
                raise ConfigurationError(f"{variable}: not set; stage {entry.name} sends it as its header {header}")
            found[variable] = environment[variable]
    return found


def _told(entry: table.Entry, mongo: str | None, files: Mapping[str, Path]) -> dict[str, str]:
    """What a function is told of this machine."""
    told = {variable: str(files[name]) for variable, name in entry.files.items()}
    return {**told, "MONGO_URL": mongo} if entry.mongo and mongo else told


def _route(entry: table.Entry, functions: Mapping[str, Component]) -> dict[str, Any]:
    """Its row in ROUTES."""
    return {
        **entry.delivery,
        "name": entry.name,
        "consumes": entry.consumes,
        "emits": entry.emits,
        "url": entry.url or functions[entry.name].url,
        "external": entry.external,
        "headersFrom": entry.variables,
    }


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
        command=[
            sys.executable,
            "-m",
            "uvicorn",
            "functions_framework.aio:app",
            "--http",
            "milepost.answers:OneWrite",
            "--ws",
            "none",
            *listen,
        ],
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
