"""`milepost new`: write a new stage into the project, with a test, in one step."""

import builtins
import keyword
import re
import signal
import tomllib
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from milepost import stage_values
from milepost.cli import edit, payload_classes
from milepost.cli.exits import CommandFailed
from milepost.cli.local import layout
from milepost.cli.options import ProjectFolder
from milepost.cli.payload_classes import PAYLOADS, PayloadClasses
from milepost.cli.stage_templates import StageTemplates
from milepost.errors import ConfigurationError
from milepost.events.attributes import RESERVED
from milepost.events.payload import Payload, fields_of
from milepost.graph import ONE_EMITTER, Graph

LONGEST_NAME = 41
"""Most characters of a stage's name. A Knative Service has at most 50, `milepost-` included."""

LONGEST_CHANNEL = 40
"""Most characters of a new channel. Its payload class is named after it."""

TAKEN = {*dir(builtins), *keyword.kwlist, "Fields", "log", "logging", "main", "stage"}
"""Names that the function of a stage cannot have."""

IMPORTED = ("ClassVar", "Path", "StageContract")
"""Names that the contract test of a new stage imports."""

Files = dict[Path, str]


@dataclass(frozen=True)
class Project:
    """A project as it is: its folder, its stages, its payload classes, the extras of its pyproject.toml."""

    folder: Path
    stages: Sequence[stage_values.StageEntry]
    payloads: PayloadClasses
    extras: Collection[str]

    @classmethod
    def read(cls, folder: Path) -> "Project":
        """Raises ConfigurationError naming the file that is missing or wrong."""
        path = folder / "pyproject.toml"
        pyproject = tomllib.loads(path.read_text()) if path.is_file() else {}
        extras = pyproject.get("project", {}).get("optional-dependencies", {})
        return cls(folder, stage_values.read(folder), payload_classes.read(folder), extras)


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The stage's name, such as geocode.")],
    *,
    on: Annotated[str, typer.Option(metavar="CHANNEL", help="The channel that it consumes.")],
    emits: Annotated[
        str | None,
        typer.Option(
            metavar="CHANNEL[,…]",
            help="The channel that it emits, or several of which it chooses one; made if there is none.",
        ),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="The field by whose value its events are ordered; `partitionkey`: by that attribute.",
        ),
    ] = None,
    project: ProjectFolder = Path(),
) -> None:
    """Write a new stage into the project: its function, its contract test, and its lines where stages are listed.

    It writes all of that or nothing.

    `milepost new geocode --on raw_input --emits place` makes `functions/geocode/main.py`, to be filled in. A stage with
    `--emits approved,declined` answers on one of the two.
    """
    channels = [channel.strip() for channel in emits.split(",")] if emits is not None else []
    write_stage(project.resolve(), name, on, channels, order)


def write_stage(folder: Path, name: str, on: str, emits: Sequence[str], order: str | None) -> None:
    """Write a stage. Raises ConfigurationError for a wrong name, CommandFailed if something cannot be written."""
    project = Project.read(folder)
    _check_name(project, name)
    stage = _templates(project, name, on, emits)
    files = _drafts(project, stage, order=_order(project, on, order))
    known = {path for path in files if (folder / path).exists()}
    write({folder / path: text for path, text in files.items()})
    for path in sorted(files):
        print(f"{'changed' if path in known else 'wrote':<8} {path}")
    print(_next(project, stage, files))


def _check_name(project: Project, name: str) -> None:
    function = name.replace("-", "_")
    faults = [
        (not re.fullmatch("[a-z]([a-z0-9-]*[a-z0-9])?", name), "must be a-z, 0-9 and -, as in geocode or geo-code"),
        (len(name) > LONGEST_NAME, f"has at most {LONGEST_NAME} characters, as a Kubernetes Service with a prefix"),
        (name in layout.OWN_NAMES, "is the name of a component"),
        (function in TAKEN, "cannot be the name of a Python function here"),
        (name in project.extras, "is the name of an extra in pyproject.toml"),
        (any(name == entry.name for entry in project.stages), f"is a stage already: see {stage_values.VALUES}"),
        (re.search("-reply(-[0-9]+)?$", name) is not None, "ends like the Trigger of a stage's replies in broker mode"),
    ]
    files = (Path("functions", name), Path("functions", f"{function}.py"), _test_of(project.folder, function))
    faults += [((project.folder / path).exists(), f"{path} is there already") for path in files]
    # Test modules are told apart by their names alone.
    named = (project.folder / "tests").rglob(files[-1].name)
    faults += [(True, f"{path.relative_to(project.folder)} has the name of its test") for path in named]
    for wrong, why in faults:
        if wrong:
            raise ConfigurationError(f"{name}: {why}")


def _templates(project: Project, name: str, on: str, emits: Sequence[str]) -> StageTemplates:
    known = project.payloads.by_channel
    if on not in known:
        raise ConfigurationError(f"--on {on}: no payload class has that channel; {PAYLOADS} has {', '.join(known)}")
    gives: dict[str, str] = {}
    for channel in emits:
        made = _class_of(project, on, channel)
        if channel in gives or made in gives.values():
            raise ConfigurationError(f"--emits {','.join(emits)}: each channel needs a name, and a class, of its own")
        gives[channel] = made
    return StageTemplates(name, on, known[on].__name__, project.payloads.is_bare(on), gives)


def _order(project: Project, on: str, order: str | None) -> str | bool:
    """Return `order` as a row in the values has it. Raises ConfigurationError if the data has no such field."""
    if order is None:
        return False
    fields = fields_of(project.payloads.by_channel[on].model_json_schema())
    if order in fields:
        return order
    if order == "partitionkey":
        return True
    raise ConfigurationError(f"--order {order}: the data on {on} has no such field, only {', '.join(fields) or 'none'}")


def _class_of(project: Project, on: str, emits: str) -> str:
    """Return the name of the payload class of the emitted channel. The class need not exist yet."""
    if emits.startswith(("{", *RESERVED)):
        raise ConfigurationError(f"--emits {emits}: Milepost keeps such names for itself")
    graph = Graph(project.stages)
    for emitter in graph.emitters(emits):
        raise ConfigurationError(f"--emits {emits}: {emitter} emits it; {ONE_EMITTER}")
    if on in graph.reached(emits):
        raise ConfigurationError(f"--emits {emits}: it leads to {on} again, for ever")
    if emits in project.payloads.by_channel:
        return project.payloads.by_channel[emits].__name__
    try:
        types.new_class("Probe", (Payload,), {"channel": emits})
    except ConfigurationError:
        raise ConfigurationError(f"--emits {emits}: cannot be the name of a channel") from None
    if len(emits) > LONGEST_CHANNEL:
        raise ConfigurationError(f"--emits {emits}: a new channel has at most {LONGEST_CHANNEL} characters")
    taken = {*project.payloads.names, *dir(builtins), *keyword.kwlist, *IMPORTED}
    made = "".join(part[0].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", emits) if part)
    for name in (made, f"{made}Payload"):
        if name.isidentifier() and name not in taken and not name.startswith("Test"):
            return name
    raise ConfigurationError(f"--emits {emits}: {made} cannot be the name of its payload class; write that yourself")


def _test_of(folder: Path, function: str) -> Path:
    tests = Path("tests", "contract") if (folder / "tests" / "contract").is_dir() else Path("tests")
    return tests / f"test_{function}_stage.py"


def _drafts(project: Project, stage: StageTemplates, *, order: str | bool) -> Files:
    """Return path in the project → its new text."""
    folder = project.folder
    test = _test_of(folder, stage.function)
    files = {
        Path("functions", stage.name, "main.py"): stage.main(),
        test: stage.contract(len(test.parts) - 1),
        stage_values.VALUES: _edited(
            folder / stage_values.VALUES, edit.add_stage_row, stage.name, stage.consumes, list(stage.gives), order=order
        ),
    }
    made = [channel for channel in stage.gives if channel not in project.payloads.by_channel]
    if made:
        if "Payload" not in project.payloads.names:
            raise ConfigurationError(f"{PAYLOADS}: must import Payload from milepost")
        files[PAYLOADS] = project.payloads.text.rstrip("\n") + "\n" + "".join(map(stage.payload, made))
    skaffold = Path("skaffold.yaml")
    if (folder / skaffold).is_file():
        files[skaffold] = _edited(folder / skaffold, edit.skaffold, stage.name, project.stages[-1].name)
    locked = Path("requirements", "stage.txt")
    if (folder / locked).is_file():
        files[locked.with_name(f"{stage.name}.txt")] = (folder / locked).read_text()
    return files


def _edited(path: Path, edit: Callable[..., str], *arguments: object, **options: object) -> str:
    try:
        return edit(path.read_text(), *arguments, **options)
    except ConfigurationError as fault:
        raise ConfigurationError(f"{path}: {fault}") from None


def write(files: Mapping[Path, str]) -> None:
    """Write all of them or none, also if a signal comes. Raises CommandFailed if that fails."""
    before = {path: path.read_bytes() if path.is_file() else None for path in files}
    folders: list[Path] = []
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
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
        raise CommandFailed(f"{fault.filename}: {fault.strerror}; nothing was written") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _next(project: Project, stage: StageTemplates, files: Files) -> str:
    """Return the next steps, in commands that this project has."""
    makefile = project.folder / "Makefile"
    targets = set(re.findall(r"^([\w-]+):", makefile.read_text(), re.MULTILINE)) if makefile.is_file() else set()
    steps = [f"functions/{stage.name}/main.py is yours: write what {stage.name} does"]
    if PAYLOADS in files:
        steps.append(f"in {PAYLOADS} give fields to what it answers: {', '.join(stage.gives.values())}")
    if project.extras:
        then = "`make lock`, online" if "lock" in targets else f"`pip install -e '.[{stage.name}]'`"
        steps.append(f"if it imports a package, name that in an extra {stage.name} of pyproject.toml; then {then}")
    if "manifests" in targets:
        steps.append("`make manifests`: knative/manifests is the chart rendered, and this stage is not in it yet")
    test = f"make test ARGS='-k {stage.function}'" if "test" in targets else f"python -m pytest -k {stage.function}"
    run = "make run" if "run" in targets else "milepost up"
    steps += [f"`{test}`", f"`{run}`, and `milepost watch` in another terminal"]
    return "\nnext:\n" + "\n".join(f"  {number}. {step}" for number, step in enumerate(steps, 1))
