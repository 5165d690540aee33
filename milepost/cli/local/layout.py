"""Which processes `milepost up` runs: read from the project and its values."""

import enum
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from milepost import stage_values
from milepost.cli.local import commands
from milepost.cli.local.commands import HOST, free_port, why_taken
from milepost.errors import ConfigurationError

OWN_NAMES = ("milepost", "redis", "mongo", "bridge", "broker", "gateway")
"""Names of components, which no stage can have."""

TAKEN_FILES = ("up", "lock", "redis", "mongo", "gateway", "bridge", "functions", "pids")
"""Names in the data folder or in stack.json, which no file of a stage can have."""

NOT_HANDED_ON = ("REDIS_URL", "MONGO_URL", "HOST", "PORT", "ROUTES", "STAGES", "K_SINK", "OPS_TOKEN")
"""Variables of `milepost up` that are not handed on to all components. Every other one is, and wins over an `env` of
the values.
"""

LONGEST_REQUEST = 3600.0
"""Most seconds in REQUEST_TIMEOUT: functions take no more. The bridge waits for the whole `timeout`."""


class Rank(enum.IntEnum):
    """Servers start before the rest. At the end the highest rank is stopped first."""

    SERVER = 0
    FUNCTION = 1
    BRIDGE = 2
    GATEWAY = 3


@dataclass(frozen=True, kw_only=True)
class Component:
    """One process. `env` is its whole environment; it is ready when `ready_url` answers."""

    name: str
    rank: Rank
    command: Sequence[str]
    url: str
    ready_url: str
    env: Mapping[str, str]
    folder: Path


@dataclass(frozen=True)
class Layout:
    """The components, and where things are. `redis` and `mongo`: URLs of the servers, embedded ones or those that the
    environment names; `mongo` is None if no stage uses one. `files`: those that stages write, by name.
    """

    components: Sequence[Component]
    redis: str
    mongo: str | None
    files: Mapping[str, Path]

    @property
    def urls(self) -> dict[str, str]:
        return {component.name: component.url for component in self.components}

    @property
    def door_url(self) -> str:
        """Return the URL where events come in: the gateway's, or the bridge's in a project without a gateway."""
        return self.urls.get("gateway") or self.urls["bridge"]

    def of(self, *ranks: Rank) -> list[Component]:
        """Return the components of these ranks."""
        return [component for component in self.components if component.rank in ranks]

    def stack(self, pids: Mapping[str, int]) -> dict[str, object]:
        """Return the contents of stack.json while these processes run."""
        found = {
            "gateway": self.urls.get("gateway"),
            "bridge": self.urls["bridge"],
            "redis": self.redis,
            "mongo": self.mongo,
            "functions": {function.name: function.url for function in self.of(Rank.FUNCTION)},
            **{name: str(path) for name, path in self.files.items()},
            "pids": dict(pids),
        }
        return {name: value for name, value in found.items() if value is not None}


def read_stages(project: Path) -> list[stage_values.StageEntry]:
    """Read the stages in the values and check that the project can run. Raises ConfigurationError naming the fault."""
    entries = stage_values.read(project)
    values = project / stage_values.VALUES
    for entry in entries:
        if entry.name in OWN_NAMES:
            raise ConfigurationError(f"{values}: no stage can be called {entry.name}")
        source = source_of(project, entry.name)
        if entry.url is None and not source.is_file():
            raise ConfigurationError(
                f"stage {entry.name}: {source} is missing; write it, or take the stage out of {values}"
            )
        for name in set(entry.files.values()) & set(TAKEN_FILES):
            raise ConfigurationError(f"{values}: no file of {entry.name} can be called {name}")
    return entries


def has_gateway(project: Path) -> bool:
    """Whether the project has a gateway. Without one, events come in by the bridge and by `milepost publish`."""
    return (project / "gateway" / "__main__.py").is_file()


def source_of(project: Path, stage: str) -> Path:
    """Return the file of a stage's function."""
    return project / "functions" / stage / "main.py"


def door_port(wanted: int) -> int:
    """The wanted port, or a free one for 0. Raises ConfigurationError if it is taken."""
    if wanted and (why := why_taken(wanted)):
        raise ConfigurationError(f"port {wanted} of {HOST}: {why}; choose another with --port (0: any free one)")
    return wanted or free_port()


def lay_out(
    project: Path, data: Path, entries: Sequence[stage_values.StageEntry], port: int, environment: Mapping[str, str]
) -> Layout:
    """Decide each component's command, port and environment. Raises ConfigurationError."""
    wants_mongo = any(entry.mongo for entry in entries)
    redis = environment.get("REDIS_URL")
    mongo = environment.get("MONGO_URL") if wants_mongo else None
    secrets = _headers(entries, environment)
    base = {name: value for name, value in environment.items() if name not in {*NOT_HANDED_ON, *secrets}}
    base["PYTHONPATH"] = os.pathsep.join([str(project), *filter(None, [environment.get("PYTHONPATH")])])
    base["PYTHONUNBUFFERED"] = "1"
    files = {name: data / name for entry in entries for name in entry.files.values()}
    for path in files.values():
        path.touch()
    components: list[Component] = []

    def add(name: str, rank: Rank, command: Sequence[str], url: str, env: Mapping[str, str], path: str = "") -> str:
        components.append(
            Component(name=name, rank=rank, command=command, url=url, ready_url=url + path, env=env, folder=project)
        )
        return url

    def http(name: str, rank: Rank, command: Sequence[str], port: int, env: Mapping[str, str], path: str = "") -> str:
        env = {**base, **env, "HOST": HOST, "PORT": str(port)}
        return add(name, rank, command, f"http://{HOST}:{port}", env, path)

    if not redis:
        at, folder = free_port(), _made(data / "redis")
        command = commands.valkey(at, folder, maxmemory_policy="noeviction", loglevel="warning")
        redis = add("redis", Rank.SERVER, command, f"redis://{HOST}:{at}/0", base)
    if wants_mongo and not mongo:
        at, folder = free_port(), _made(data / "mongo")
        mongo = add("mongo", Rank.SERVER, commands.mongo(at, folder), f"mongodb://{HOST}:{at}/milepost", base)
    routes = []
    for entry in entries:
        url = entry.url
        if url is None:
            defaults = {
                "REQUEST_TIMEOUT": f"{min(entry.timeout, LONGEST_REQUEST):g}",
                **entry.env,
            }  # as the chart has it
            env = {variable: str(files[name]) for variable, name in entry.files.items()}
            env |= {"MONGO_URL": mongo} if entry.mongo and mongo else {}
            env |= {"FUNCTION_SOURCE": str(source_of(project, entry.name)), "FUNCTION_TARGET": "main"}
            at = free_port()
            url = http(entry.name, Rank.FUNCTION, commands.function(at), at, {**defaults, **base, **env})
        # Nothing scales to zero here, so nothing needs a wake-up.
        row = {**_wiring(entry), "url": url, "headersFrom": entry.variables, "wake": "off"}
        routes.append({**entry.delivery, **row})
    with_gateway = has_gateway(project)
    at = free_port() if with_gateway else port
    env = {"REDIS_URL": redis, **secrets, "ROUTES": json.dumps(routes)}
    http("bridge", Rank.BRIDGE, [sys.executable, "-m", "milepost.bridge"], at, env, "/readyz")
    if with_gateway:
        env = {"REDIS_URL": redis, "STAGES": json.dumps([_wiring(entry) for entry in entries])}
        env |= {name: environment[name] for name in ("OPS_TOKEN",) if name in environment}
        http("gateway", Rank.GATEWAY, [sys.executable, "-m", "gateway"], port, env, "/readyz")
    return Layout(components, redis=redis, mongo=mongo, files=files)


def _wiring(entry: stage_values.StageEntry) -> dict[str, object]:
    wiring = {"name": entry.name, "consumes": entry.consumes, "emits": entry.emits, "external": entry.external}
    return wiring | ({"split": True} if entry.split else {}) | ({"order": entry.order} if entry.order else {})


def _headers(entries: Sequence[stage_values.StageEntry], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with headers for other people's stages. They are secrets, which only the bridge gets."""
    found: dict[str, str] = {}
    for entry in entries:
        for header, variable in entry.variables.items():
            if not environment.get(variable):
                raise ConfigurationError(f"{variable}: not set; stage {entry.name} sends it as its header {header}")
            found[variable] = environment[variable]
    return found


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
