"""Lint, format and types are part of the tests."""

import subprocess
import sys

import pytest

from tests.servers import ROOT


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=["lint", "format", "types"]
)
def test_the_code_is_clean(command: list[str]) -> None:
    found = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=800, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
