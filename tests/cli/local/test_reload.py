"""Which components a changed source concerns."""

from pathlib import Path

import pytest

from milepost import stage_values
from milepost.cli.local import layout
from milepost.cli.local.reload import affected
from tests.servers import STAGES

ALL = {*STAGES, "bridge", "gateway"}


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("functions/store/main.py", {"store"}),
        ("functions/payloads.py", ALL),
        ("functions/mongo.py", ALL),
        ("gateway/templates/form.html", ALL),
        ("milepost/journal/lua/park.lua", ALL),
        ("functions/store/notes.txt", set()),
    ],
)
def test_changed_file_affects_the_components_that_run_it(
    path: str, names: set[str], tmp_path: Path, project: Path
) -> None:
    laid_out = layout.lay_out(project, tmp_path, stage_values.read(project), 1, {})
    assert set(affected([Path(path)], laid_out)) == names
