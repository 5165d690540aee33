"""`--reload`: which components a changed source concerns, and starting those anew."""

from collections.abc import Collection
from pathlib import Path

from milepost import table
from milepost.cli.component import Rank
from milepost.cli.console import Console
from milepost.cli.plan import Plan
from milepost.cli.supervisor import Supervisor
from milepost.errors import ConfigurationError

WATCHED = ("functions", "gateway", "milepost", "helm")
SOURCES = {".py", ".lua", ".html", ".css", ".js"}


def concerned(path: Path, plan: Plan) -> set[str]:
    """The components that run this file, named from the project's folder on."""
    return _concerned(path, {function.name for function in plan.of(Rank.FUNCTION)}) & set(plan.names)


def _concerned(path: Path, functions: set[str]) -> set[str]:
    if path.suffix not in SOURCES:
        return set()
    match path.parts:
        case ["functions", stage, _, *_]:
            return {stage}
        case ["functions", _]:
            return {*functions, "gateway"}
        case ["gateway", *_]:
            return {"gateway"}
        case ["milepost", "cli", _, *_]:
            return set()
        case ["milepost", "bridge", _, *_]:
            return {"bridge"}
        case ["milepost", "journal", _, *_]:
            return {"bridge", "gateway"}
        case ["milepost", *_]:
            return {*functions, "bridge", "gateway"}
    return set()


def check() -> None:
    """Raises ConfigurationError if changes cannot be watched."""
    try:
        import watchfiles  # noqa: F401, PLC0415
    except ImportError:
        raise ConfigurationError("--reload needs watchfiles: pip install 'milepost[cli]'") from None


async def restart_what_changes(project: Path, plan: Plan, supervisor: Supervisor, console: Console) -> None:
    """Watch the project's sources, and start what they concern anew, until cancelled."""
    from watchfiles import awatch  # noqa: PLC0415 - a thread and a native module, for --reload only

    folders = [project / name for name in WATCHED if (project / name).is_dir()]
    async for changes in awatch(*folders, debounce=200, step=50):
        paths = {Path(changed).relative_to(project) for _, changed in changes}
        await _restart(paths, plan, supervisor, console)


async def _restart(paths: Collection[Path], plan: Plan, supervisor: Supervisor, console: Console) -> None:
    if table.VALUES in paths:
        console.log("milepost", f"{table.VALUES} changed: stop and start `milepost up` to take it in")
    names = sorted(set[str]().union(*(concerned(path, plan) for path in paths)))
    if names:
        console.log("milepost", f"sources changed: starting {', '.join(names)} anew")
        await supervisor.restart(names)
