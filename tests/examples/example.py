"""An example as its user has it: its own tests, `milepost up` on a copy of it, and its stand-in for a receiver."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.cli.copies import OWN_TESTS
from tests.cli.running import MILEPOST, WITHIN, environment
from tests.servers import ROOT, wait_for

EXAMPLES = ROOT / "examples"

RECEIVER = "http://127.0.0.1:9000/"
"""Where receiver.py listens, as the examples' values have it."""


def check_own_tests(project: Path) -> None:
    """Run the example's own tests in its own folder."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *OWN_TESTS],
        cwd=project,
        env={name: value for name, value in environment().items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]


@dataclass
class Receiver:
    """receiver.py, and its output."""

    log: Path
    process: subprocess.Popen[bytes]

    @property
    def printed(self) -> str:
        return self.log.read_text()

    @property
    def url(self) -> str:
        return self.printed.splitlines()[0]

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def receiving(project: Path, log: Path, *, port: int = 0) -> Iterator[Receiver]:
    """Run the receiver of an example, without `port` at one of its own."""
    with log.open("wb") as out:
        command = [sys.executable, str(project / "receiver.py"), str(port)]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    receiver = Receiver(log, process)
    try:
        wait_for(lambda: "\n" in receiver.printed, what="its URL")
        yield receiver
    finally:
        receiver.stop()


def copied(project: Path, copy: Path, receiver: Receiver) -> Path:
    """Copy an example, with this receiver in its values."""
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("__pycache__", ".milepost", ".*_cache"))
    values = copy / "helm" / "values.yaml"
    assert RECEIVER in values.read_text()
    values.write_text(values.read_text().replace(RECEIVER, receiver.url))
    return copy


def milepost(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MILEPOST, *arguments],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
