"""What `pip install .` gives, and that its version stands in one place."""

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from gateway.app import create_app
from gateway.settings import GatewaySettings
from milepost import __version__
from tests.cli.running import MILEPOST, environment
from tests.documents.sandbox import NOT_COPIED
from tests.servers import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built in a copy: setuptools leaves its own files in the project."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "project"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "milepost_command.py"):
        shutil.copy(ROOT / name, copy)
    for name in ("milepost", "gateway", "functions", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns(*NOT_COPIED))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index"]
    built = subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", folder, copy],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (made,) = folder.glob("*.whl")
    with zipfile.ZipFile(made) as opened:
        yield opened


def in_package(suffix: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / "milepost").rglob(f"*{suffix}")}


def test_the_wheel_has_the_whole_library_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == in_package(".py") | in_package(".lua") | {"milepost/py.typed", "milepost_command.py"}


def test_the_wheel_has_the_command_the_types_mark_and_the_scripts_of_redis(wheel: zipfile.ZipFile) -> None:
    info = next(name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    assert wheel.read(f"{info}/entry_points.txt").decode().split("\n")[:2] == [
        "[console_scripts]",
        "milepost = milepost_command:main",
    ]
    assert "milepost/py.typed" in wheel.namelist()
    assert "milepost/journal/lua/publish.lua" in wheel.namelist()
    assert f"Version: {__version__}" in wheel.read(f"{info}/METADATA").decode().splitlines()


def test_from_the_wheel_the_library_and_the_command_run(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import milepost, milepost.journal, milepost.testing;"
        "assert milepost.__file__.startswith(sys.argv[1]); sys.argv = ['milepost', '--version'];"
        "from milepost_command import main; main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, f"milepost {__version__}\n"), ran.stderr


def test_the_command_tells_the_version_of_the_package() -> None:
    assert version("milepost") == __version__
    told = subprocess.run([*MILEPOST, "--version"], env=environment(), capture_output=True, text=True, check=True)
    assert told.stdout == f"milepost {__version__}\n"


def test_every_copy_of_the_version_is_like_it() -> None:
    chart = yaml.safe_load((ROOT / "helm" / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert create_app(GatewaySettings()).openapi()["info"]["version"] == __version__
    for document in [ROOT / "README.md", ROOT / "Dockerfile", *(ROOT / "docs").glob("*.md")]:
        tags = re.findall(r"dev\.local/milepost-\S+?:(\d[\w.]*\w)", document.read_text())
        assert set(tags) <= {__version__}, document.name
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
