"""A component with the files, packages, environment and command of its image, and nothing else.

Only the base image is missing. The packages are those of the component's lock file, linked from where the tests'
own are installed, with the bytecode that there is, so that no index is asked.
"""

import compileall
import importlib.metadata
import subprocess
import venv
from collections.abc import Mapping
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import Requirement

from tests.images.dockerfile import APP, Image
from tests.servers import HOST, Server, http_status

VENV = "/opt/venv"


def locked(requirements: Path) -> dict[str, str]:
    """Return package -> version of a lock file, for this Python and platform."""
    lines = (line.removesuffix(" \\") for line in requirements.read_text().splitlines() if "==" in line)
    found = [Requirement(line) for line in lines]
    return {
        one.name: str(one.specifier).removeprefix("==") for one in found if one.marker is None or one.marker.evaluate()
    }


def install(requirements: Path, folder: Path) -> None:
    """Make a virtual environment with the packages of the lock file."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name, version in locked(requirements).items():
        package = importlib.metadata.distribution(name)
        assert package.version == version, f"{name} {package.version} is installed, {version} is locked: make setup"
        for file in package.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                source = Path(str(package.locate_file(file)))
                _link(source, site / file)
                if file.suffix == ".py":
                    _link(Path(cache_from_source(source)), Path(cache_from_source(site / file)))
        for script in package.entry_points.select(group="console_scripts"):
            path = folder / "bin" / script.name
            call = f"from {script.module} import {script.attr}\nsys.exit({script.attr}())"
            path.write_text(f"#!{folder}/bin/python3\nimport sys\n{call}\n")
            path.chmod(0o755)


def _link(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.exists() and not destination.exists():
        destination.symlink_to(source)


class Component(Server):
    """A running container. Its root file system is read-only, and its environment is the image's and the given one."""

    def __init__(self, folder: Path, target: str, *, env: Mapping[str, str] | None = None, **arguments: str) -> None:
        self.image = Image(target, **arguments)
        self.name = arguments.get("STAGE", target)
        super().__init__(folder, env=env)
        self.app = self.folder / "app"
        self.venv = self.folder / "venv"
        self.image.lay(self.app)
        compileall.compile_dir(self.app, quiet=1)
        install(self.image.requirements, self.venv)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The image's environment with its paths mapped to this folder, then the pod's."""
        places = {f"{VENV}/": f"{self.venv}/", f"{APP}/": f"{self.app}/"}
        found = dict(self.image.env)
        for name, value in found.items():
            for place, here in places.items():
                found[name] = value = f"{value}/".replace(place, here).removesuffix("/")  # noqa: PLW2901
        found["PATH"] = f"{self.venv}/bin:/usr/bin:/bin"
        port = "PORT" if "PORT" in found else "UVICORN_PORT"
        host = "HOST" if "HOST" in found else "UVICORN_HOST"
        return {**found, port: str(self.port), host: HOST, **self.env}

    def argv(self) -> list[str]:
        program, *arguments = self.image.command
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        alone = 'cd "$1" && shift && exec env -i "$@"'
        return ["sh", "-c", alone, "sh", str(self.app), *variables, str(self.venv / "bin" / program), *arguments]

    def is_ready(self) -> bool:
        return http_status(self.port, "/" if self.image.env.get("FUNCTION_TARGET") else "/readyz") == 200

    def python(self, code: str) -> str:
        """Return the output of a line of Python in the container."""
        command = [str(self.venv / "bin" / "python3"), "-c", code]
        return subprocess.run(
            command, cwd=self.app, env=self.environment, capture_output=True, text=True, check=True
        ).stdout.strip()
