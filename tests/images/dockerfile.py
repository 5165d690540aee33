"""The Dockerfile, read as far as ours goes: stages, and for a target its files, environment and command.

image = Image("function", STAGE="distance")
image.lay(folder)      # /app as the image has it
image.requirements     # the lock file whose packages it has; image.locks has those of its base too
image.env, image.command
"""

import fnmatch
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.servers import ROOT

TEXT = (ROOT / "Dockerfile").read_text()
APP = "/app"


def instructions() -> Iterator[tuple[str, str]]:
    """Yield (instruction, arguments), without comments and with continued lines joined."""
    lines = "\n".join(line for line in TEXT.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n", " ", lines).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name, re.sub(r"\s+", " ", rest).strip()


@cache
def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Return stage name -> (base, instructions)."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    name = ""
    for instruction, rest in instructions():
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = (base, [])
        elif name:
            found[name][1].append((instruction, rest))
    return found


def targets() -> set[str]:
    """Return the stages that have a command."""
    return {name for name, (_, steps) in stages().items() if any(step[0] == "CMD" for step in steps)}


class Image:
    """One target, with its build arguments."""

    def __init__(self, target: str, **arguments: str) -> None:
        self.env: dict[str, str] = {}
        self.command: list[str] = []
        self.user = self.workdir = ""
        self.locks: list[Path] = []
        self._copies: list[tuple[list[str], str]] = []
        self._arguments = arguments
        self._read(target)

    @property
    def requirements(self) -> Path:
        return self.locks[-1]

    def _read(self, name: str) -> None:
        base, steps = stages()[name]
        if base in stages():
            self._read(base)
        known = self._known(steps)
        for instruction, text in steps:
            rest = _filled(text, known)
            if instruction == "ENV":
                self.env |= dict(pair.split("=", 1) for pair in shlex.split(text if not known else rest))
            elif instruction == "CMD":
                self.command = json.loads(rest)
            elif instruction == "USER":
                self.user = rest
            elif instruction == "WORKDIR":
                self.workdir = rest
            elif instruction == "COPY":
                self._copy([word for word in rest.split() if not word.startswith("--chown")])

    def _known(self, steps: list[tuple[str, str]]) -> dict[str, str]:
        """Return the build arguments of a stage. A default may refer to an argument above it."""
        known: dict[str, str] = {}
        for instruction, text in steps:
            if instruction == "ARG":
                argument, _, default = text.partition("=")
                known[argument] = self._arguments.get(argument, _filled(default, known))
        return known

    def _copy(self, words: list[str]) -> None:
        *sources, destination = words
        if sources[0].startswith("--from="):
            (stage,) = [sources[0].removeprefix("--from=")]
            self._read_requirements(stage)
        else:
            self._copies.append((sources, destination))

    def _read_requirements(self, stage: str) -> None:
        steps = stages()[stage][1]
        (source,) = [rest.split()[0] for step, rest in steps if step == "COPY"]
        self.locks.append(ROOT / _filled(source, self._known(steps)))

    def lay(self, app: Path) -> None:
        """Copy the files of the image's /app into `app`, except those that .dockerignore excludes."""
        for sources, destination in self._copies:
            for source in sources:
                for path in sorted(ROOT.glob(source)):
                    whole = destination.endswith("/") and path.is_file()
                    self._place(path, app / destination / path.name if whole else app / destination)

    def _place(self, path: Path, destination: Path) -> None:
        if ignored(path):
            return
        if path.is_dir():
            for inner in sorted(path.iterdir()):
                self._place(inner, destination / inner.name)
        else:
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, destination)


def _filled(text: str, known: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: known.get(found[1], ""), text)


def ignored(path: Path) -> bool:
    """Return whether .dockerignore excludes this file. The last pattern that matches decides."""
    relative = path.relative_to(ROOT)
    ways = [str(relative), *map(str, relative.parents)][:-1]
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        if any(_fits(way, pattern) for way in ways):
            verdict = not line.startswith("!")
    return verdict


def _fits(way: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatch(Path(way).name, pattern.removeprefix("**/"))
    return way.count("/") == pattern.count("/") and fnmatch.fnmatch(way, pattern)
