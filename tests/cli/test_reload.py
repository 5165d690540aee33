"""Which components a changed source concerns."""

from pathlib import Path

import httpx
import pytest

from milepost import table
from milepost.cli import plan
from milepost.cli.reload import concerned
from tests.servers import STAGES

FUNCTIONS = set(STAGES)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("functions/store/main.py", {"store"}),
        ("functions/gone/main.py", set()),
        ("functions/payloads.py", FUNCTIONS | {"gateway"}),
        ("gateway/templates/form.html", {"gateway"}),
        ("milepost/bridge/route.py", {"bridge"}),
        ("milepost/journal/lua/park.lua", {"bridge", "gateway"}),
        ("milepost/event.py", FUNCTIONS | {"bridge", "gateway"}),
        ("milepost/cli/up.py", set()),
        ("helm/values.yaml", set()),
        ("functions/store/notes.txt", set()),
    ],
)
async def test_concerned(path: str, names: set[str], tmp_path: Path, project: Path) -> None:
    async with httpx.AsyncClient() as client:
        laid_out = plan.draw(project, tmp_path, table.read(project), 1, client, {})
    assert concerned(Path(path), laid_out) == names
