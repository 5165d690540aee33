"""`milepost new`: a stage of one's own, whole, in one step."""

import builtins
import contextlib
import keyword
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from milepost import stages_table
from milepost.cli import amend, options, vocabulary
from milepost.cli.exits import Failed
from milepost.cli.local import layout
from milepost.cli.stub import Stub
from milepost.cli.vocabulary import PAYLOADS, Vocabulary
from milepost.errors import ConfigurationError
from milepost.graph import Graph
from milepost.events.payload import Payload

RESERVED = {*layout.OWN_NAMES, "broker"}

LONGEST_NAME = 41
"""With `milepost-` before it, the name of a Knative Service has at most 50 characters."""

LONGEST_CHANNEL = 40
"""Of a channel made here: its payload class is called after it."""

TAKEN = {*dir(builtins), *keyword.kwlist, "Fields", "log", "logging", "main", "stage"}
"""What the function of a stage cannot be called."""

Files = dict[Path, str]


IMPORTED = ("ClassVar", "Path", "StageContract")
"""Names that the contract test of a new stage has from elsewhere."""


@dataclass(frozen=True)
class Project:
    """A project as it is: its folder, its stages, its payload classes, its pyproject.toml."""

    folder: Path
    stages: Sequence[stages_table.Entry]
    vocabulary: Vocabulary
    pyproject: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Project":
        """Raises ConfigurationError naming what is not there."""
        path = folder / "pyproject.toml"
        pyproject = tomllib.loads(path.read_text()) if path.is_file() else {}
        return cls(folder, stages_table.read(folder), vocabulary.read(folder), pyproject.get("project", {}))

    @property
    def extras(self) -> Mapping[str, Any]:
        """Extra → requirements."""
        found: Mapping[str, Any] = self.pyproject.get("optional-dependencies", {})
        return found


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The stage's name, such as geocode.")],
    *,
    on: Annotated[str, typer.Option(metavar="CHANNEL", help="The channel that it consumes.")],
    emits: Annotated[
        str | None, typer.Option(metavar="CHANNEL", help="The channel that it emits; made if there is none.")
    ] = None,
    project: options.Project = Path(),
) -> None:
    """Write a new stage into the project: its function, its contract test, and its entries wherever stages are listed.

    All of it, or nothing: whatever is wrong with the names is told before the first file is written.

    `milepost new geocode --on raw_input --emits place` makes `functions/geocode/main.py`, to be filled in.
    """
    _new(project.resolve(), name, on, emits)


def _new(folder: Path, name: str, on: str, emits: str | None) -> None:
    """Write a stage. Raises ConfigurationError for a wrong name, Failed if something cannot be written."""
    project = Project.read(folder)
    _check_name(project, name)
    stub = _stub(project, name, on, emits)
    files = _drafts(project, stub)
    files |= _manifests(folder, files)
    known = {path for path in files if (folder / path).exists()}
    write({folder / path: text for path, text in files.items()})
    for path in sorted(files):
        print(f"{'changed' if path in known else 'wrote':<8} {path}")
    print(_next(project, stub, files))


def _check_name(project: Project, name: str) -> None:
    function = name.replace("-", "_")
    faults = [
        (not re.fullmatch("[a-z]([a-z0-9-]*[a-z0-9])?", name), "must be a-z, 0-9 and -, as in geocode or geo-code"),
        (len(name) > LONGEST_NAME, f"has at most {LONGEST_NAME} characters, as a Kubernetes Service with a prefix"),
        (name in RESERVED, "is the name of a component"),
        (function in TAKEN, "cannot be the name of a Python function here"),
        (name in project.extras, "is the name of an extra in pyproject.toml"),
        (any(name == entry.name for entry in project.stages), f"is a stage already: see {stages_table.VALUES}"),
        (name.endswith("-reply"), "ends like the Trigger of a stage's replies in broker mode"),
    ]
    files = (Path("functions", name), Path("functions", f"{function}.py"), _test_of(project.folder, function))
    faults += [((project.folder / path).exists(), f"{path} is there already") for path in files]
    # Test modules are told apart by their names alone.
    named = (project.folder / "tests").rglob(files[-1].name)
    faults += [(True, f"{path.relative_to(project.folder)} has the name of its test") for path in named]
    for wrong, why in faults:
        if wrong:
            raise ConfigurationError(f"{name}: {why}")


def _stub(project: Project, name: str, on: str, emits: str | None) -> Stub:
    known = project.vocabulary.classes
    if on not in known:
        raise ConfigurationError(f"--on {on}: no payload class has that channel; {PAYLOADS} has {', '.join(known)}")
    gives = None if emits is None else _class_of(project, on, emits)
    return Stub(name, on, known[on], on in project.vocabulary.bare, emits, gives)


def _class_of(project: Project, on: str, emits: str) -> str:
    """The payload class of the channel emitted, which may have to be made."""
    if emits.startswith(("{", "dead:")):
        raise ConfigurationError(f"--emits {emits}: Milepost keeps such names for itself")
    graph = Graph(project.stages)
    for emitter in graph.emitters(emits):
        raise ConfigurationError(f"--emits {emits}: {emitter} emits it; one channel is emitted by at most one stage")
    if on in graph.reached(emits):
        raise ConfigurationError(f"--emits {emits}: what it leads to is {on} again, for ever")
    if emits in project.vocabulary.classes:
        return project.vocabulary.classes[emits]
    try:
        types.new_class("Probe", (Payload,), {"channel": emits})
    except ConfigurationError:
        raise ConfigurationError(f"--emits {emits}: cannot be the name of a channel") from None
    if len(emits) > LONGEST_CHANNEL:
        raise ConfigurationError(f"--emits {emits}: a new channel has at most {LONGEST_CHANNEL} characters")
    taken = {*project.vocabulary.names, *dir(builtins), *keyword.kwlist, *IMPORTED}
    made = "".join(part[0].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", emits) if part)
    for name in (made, f"{made}Payload"):
        if name.isidentifier() and name not in taken and not name.startswith("Test"):
            return name
    raise ConfigurationError(f"--emits {emits}: {made} cannot be the name of its payload class; write that yourself")


def _test_of(folder: Path, function: str) -> Path:
    tests = Path("tests", "contract") if (folder / "tests" / "contract").is_dir() else Path("tests")
    return tests / f"test_{function}_stage.py"


def _drafts(project: Project, stub: Stub) -> Files:
    """Path in the project → its text to be."""
    folder, stages = project.folder, [entry.name for entry in project.stages]
    test = _test_of(folder, stub.function)
    files = {
        Path("functions", stub.name, "main.py"): stub.main(),
        test: stub.contract(len(test.parts) - 1),
        stages_table.VALUES: _amended(folder / stages_table.VALUES, amend.table, stub.name, stub.consumes, stub.emits),
    }
    if stub.emits is not None and stub.emits not in project.vocabulary.classes:
        if "Payload" not in project.vocabulary.names:
            raise ConfigurationError(f"{PAYLOADS}: must import Payload from milepost")
        files[PAYLOADS] = project.vocabulary.text.rstrip("\n") + "\n" + stub.payload()
    if project.extras:
        begin = f"{project.pyproject['name']}[stage]" if "stage" in project.extras else "milepost[function]"
        path = Path("pyproject.toml")
        files[path] = _amended(folder / path, amend.extras, stub.name, begin, stages)
    skaffold = Path("skaffold.yaml")
    if (folder / skaffold).is_file():
        files[skaffold] = _amended(folder / skaffold, amend.skaffold, stub.name, stages[-1])
    locked = Path("requirements", "stage.txt")
    if (folder / locked).is_file():
        files[locked.with_name(f"{stub.name}.txt")] = (folder / locked).read_text()
    return files


def _amended(path: Path, step: Any, *arguments: Any) -> str:
    try:
        text: str = step(path.read_text(), *arguments)
    except ConfigurationError as fault:
        raise ConfigurationError(f"{path}: {fault}") from None
    return text


def _renders(folder: Path) -> bool:
    """Whether the project keeps its chart rendered, and Helm's SDK is here to do it."""
    return (folder / "tests" / "chart" / "manifests.py").is_file() and find_spec("helm_python") is not None


def _manifests(folder: Path, files: Files) -> Files:
    """knative/manifests as the chart renders it with the new entry. Raises Failed with what the chart says."""
    if not _renders(folder):
        return {}
    with tempfile.TemporaryDirectory(prefix="milepost-") as made:
        copy = Path(made)
        for part in ("helm", "knative", "tests"):
            shutil.copytree(folder / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / stages_table.VALUES).write_text(files[stages_table.VALUES])
        ran = subprocess.run(
            [sys.executable, "-m", "tests.chart.manifests"], cwd=copy, capture_output=True, text=True, check=False
        )
        if ran.returncode != 0:
            raise Failed(f"the chart cannot be rendered with it: {ran.stderr.strip().rpartition(chr(10))[2]}")
        rendered = {path.relative_to(copy): path.read_text() for path in (copy / "knative/manifests").glob("*.yaml")}
    return {path: text for path, text in rendered.items() if (folder / path).read_text() != text}


def write(files: Mapping[Path, str]) -> None:
    """Write all of them or none. Raises Failed, with everything as it was before."""
    before = {path: path.read_bytes() if path.is_file() else None for path in files}
    folders: list[Path] = []
    with _uninterrupted():
        try:
            for path, text in files.items():
                for parent in reversed([parent for parent in path.parents if not parent.exists()]):
                    parent.mkdir()
                    folders.append(parent)
                path.write_text(text)
        except OSError as fault:
            for path, contents in before.items():
                if contents is not None:
                    path.write_bytes(contents)
                elif path.is_file():
                    path.unlink()
            for made in reversed(folders):
                made.rmdir()
            raise Failed(f"{fault.filename}: {fault.strerror}; nothing was written") from None


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back the signals that end us."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _next(project: Project, stub: Stub, files: Files) -> str:
    """What to do now, in commands that this project has."""
    makefile = project.folder / "Makefile"
    targets = set(re.findall(r"^([\w-]+):", makefile.read_text(), re.MULTILINE)) if makefile.is_file() else set()
    steps = [f"functions/{stub.name}/main.py is yours: say what {stub.name} does"]
    if PAYLOADS in files:
        steps.append(f"{stub.gives}, in {PAYLOADS}, is what it answers: give it fields")
    if Path("pyproject.toml") in files:
        then = "`make lock`, online" if "lock" in targets else f"`pip install -e '.[{stub.name}]'`"
        steps.append(f"what it imports goes into the extra {stub.name} of pyproject.toml; then {then}")
    if "manifests" in targets and not _renders(project.folder):
        steps.append("`make manifests`: knative/manifests is the chart rendered, and this stage is not in it yet")
    test = f"make test ARGS='-k {stub.function}'" if "test" in targets else f"python -m pytest -k {stub.function}"
    run = "make run" if "run" in targets else "milepost up"
    steps += [f"`{test}`", f"`{run}`, and `milepost watch` in another terminal"]
    return "\nnext:\n" + "\n".join(f"  {number}. {step}" for number, step in enumerate(steps, 1))
