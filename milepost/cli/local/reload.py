"""`--reload`: restart the components that run a source file which has changed."""

from collections.abc import Iterable
from pathlib import Path

from watchfiles import awatch

from milepost.cli.local.console import Console
from milepost.cli.local.layout import Layout, Rank
from milepost.cli.local.supervisor import Supervisor

WATCHED = ("functions", "gateway", "milepost")
SOURCES = {".py", ".lua", ".html", ".css", ".js", ".svg", ".json"}
"""As in helm/files/reload.py."""


async def watch_sources(project: Path, layout: Layout, supervisor: Supervisor, console: Console) -> None:
    """Watch the project's sources and restart the components that run them, until cancelled."""
    folders = [project / name for name in WATCHED if (project / name).is_dir()]
    async for changes in awatch(*folders, debounce=200, step=50):
        if names := affected((Path(changed).relative_to(project) for _, changed in changes), layout):
            console.log("milepost", f"sources changed: restarting {', '.join(names)}")
            await supervisor.restart(names)


def affected(paths: Iterable[Path], layout: Layout) -> list[str]:
    """Return the components that run one of these files: of a stage's own file its function, else all but servers."""
    ours = {component.name for component in layout.components if component.rank is not Rank.SERVER}
    found: set[str] = set()
    for path in paths:
        if path.suffix in SOURCES:
            own = {path.parts[1]} & ours if path.parts[0] == "functions" else set()
            found |= own or ours
    return sorted(found)
