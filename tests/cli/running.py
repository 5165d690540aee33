"""`milepost` as its user has it: real processes."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.servers import ROOT, WITHIN, wait_for

MILEPOST = [sys.executable, "-m", "milepost.cli"]


def environment(**more: str) -> dict[str, str]:
    """This process's, without what would point elsewhere."""
    kept = {name: value for name, value in os.environ.items() if name not in {"REDIS_URL", "MONGO_URL"}}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **more}


def is_alive(pid: int) -> bool:
    """Whether this process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # ended just now, or no Linux
        return not Path("/proc/self").exists()
    return state != "Z"


class Milepost:
    """A `milepost` command that runs, and the lines it has printed so far."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*MILEPOST, *arguments],
            cwd=ROOT,
            env=environment(**(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as stdout:
            self.lines.extend(line.rstrip("\n") for line in iter(stdout.readline, ""))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def ended(self) -> bool:
        """Whether it has ended, and all that it printed is in `lines`."""
        return self.process.poll() is not None and not self._reader.is_alive()

    def wait_for(self, condition: Callable[[], object], within: float = WITHIN, what: str = "") -> None:
        """Wait for a condition; the output is shown if it does not come."""
        try:
            wait_for(lambda: condition() or self.ended, within, what)
            assert condition(), f"ended with {self.process.poll()} before: {what}"
        except AssertionError as fault:
            raise AssertionError(f"{fault}\n{self.output}") from None

    def wait_for_line(self, part: str, within: float = WITHIN) -> None:
        self.wait_for(lambda: any(part in line for line in list(self.lines)), within, f"a line with {part!r}")

    def end(self, number: signal.Signals = signal.SIGTERM, within: float = WITHIN) -> int:
        """Send a signal and wait for the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(within)
        self._reader.join(WITHIN)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        if kind is not None:
            print(self.output)


class Up(Milepost):
    """`milepost up` on a data folder."""

    def __init__(self, data: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.data = data
        super().__init__("up", "--data", str(data), "--port", "0", *arguments, env=env)

    def ready(self) -> Self:
        self.wait_for(lambda: any(line.startswith("ready ") for line in list(self.lines)), WITHIN, "the line `ready`")
        return self

    @property
    def stack(self) -> dict[str, Any]:
        stack: dict[str, Any] = json.loads((self.data / "stack.json").read_text())
        return stack

    @property
    def pids(self) -> dict[str, int]:
        return dict(self.stack["pids"])


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str
