"""A copy of this repository, and commands in it."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.cli.running import MILEPOST, Ended, environment
from tests.servers import ROOT

OWN_TESTS = ("-q", "-p", "no:cacheprovider", "-p", "no:cloudcoil", "-p", "no:schemathesis")
"""Arguments of pytest for a project that is not this repository: without plugins that it need not have."""


def copy_of_the_repository(folder: Path) -> Path:
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", *ignored))
    return folder


def tree(folder: Path) -> dict[Path, bytes | None]:
    """Every path below, and each file's contents."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def make(folder: Path, *arguments: str, library: Path | None = None) -> Ended:
    """`milepost new` as its user runs it, with the copy's own library or another."""
    ran = subprocess.run(
        [*MILEPOST, "new", *arguments],
        cwd=folder,
        env=environment(PYTHONPATH=str(library or folder)),
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(ran.returncode, ran.stdout, ran.stderr)


def run(folder: Path, *arguments: str, library: Path | None = None) -> None:
    """A Python module run in the copy must succeed."""
    ran = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment(PYTHONPATH=str(library or folder)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
