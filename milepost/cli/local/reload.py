"""`--reload`: restart the components that run a source file which has changed."""

from collections.abc import Collection
from pathlib import Path

from milepost import stages_table
from milepost.cli.local.console import Console
from milepost.cli.local.layout import Layout, Rank
from milepost.cli.local.supervisor import Supervisor
from milepost.errors import ConfigurationError

WATCHED = ("functions", "gateway", "milepost", "helm")
SOURCES = {".py", ".lua", ".html", ".css", ".js"}


def affected(path: Path, layout: Layout) -> set[str]:
    """The components that run this file, a path within the project."""
    if path.suffix not in SOURCES:
        return set()
    functions = {component.name for component in layout.components if component.rank is Rank.FUNCTION}
    match path.parts:
        case ["functions", stage, _, *_]:
            return {stage} & functions
        case ["milepost", "cli" | "testing", *_]:
            return set()
        case ["milepost", "bridge", *_]:
            return {"bridge"}
        case ["gateway", *_]:
            found = {"gateway"}
        case ["functions", *_]:
            found = {*functions, "gateway"}
        case _:
            found = {*functions, "bridge", "gateway"}
    return found & layout.urls.keys()


def check() -> None:
    """Raises ConfigurationError if changes cannot be watched."""
    try:
        import watchfiles  # noqa: F401
    except ImportError:
        raise ConfigurationError("--reload needs watchfiles: pip install 'milepost[cli]'") from None


async def watch_sources(project: Path, layout: Layout, supervisor: Supervisor, console: Console) -> None:
    """Watch the project's sources and restart the components that run them, until cancelled."""
    from watchfiles import awatch

    folders = [project / name for name in WATCHED if (project / name).is_dir()]
    async for changes in awatch(*folders, debounce=200, step=50):
        paths = {Path(changed).relative_to(project) for _, changed in changes}
        await _restart(paths, layout, supervisor, console)


async def _restart(paths: Collection[Path], layout: Layout, supervisor: Supervisor, console: Console) -> None:
    if stages_table.VALUES in paths:
        console.log("milepost", f"{stages_table.VALUES} changed: stop and start `milepost up` to apply it")
    if names := sorted(set[str]().union(*(affected(path, layout) for path in paths))):
        console.log("milepost", f"sources changed: restarting {', '.join(names)}")
        await supervisor.restart(names)
