"""The examples of docs/testing.md, and the tests in docs/stages.md, pass."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.servers import ROOT


def test_every_example_passes(tmp_path: Path) -> None:
    testing, stages = [
        re.findall("```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL)
        for name in ("testing.md", "stages.md")
    ]
    tests = [code for code in stages if "def test_" in code]
    examples = testing + tests
    for number, code in enumerate(examples):
        (tmp_path / f"test_example_{number}.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    ran = subprocess.run(
        [*command, "--rootdir", str(ROOT), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-6000:]
    assert (len(testing), len(tests)) == (3, 3)
    assert "warning" not in ran.stdout
