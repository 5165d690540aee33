"""Another program on the same machine: a process that takes a share of one core.

python -m benchmarks.beside SHARE     SHARE: 0.33 for a third of a core, 1 for a whole one
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

PERIOD = 0.02
"""Seconds in which it takes its share once."""


@contextmanager
def taking(share: float) -> Iterator[None]:
    """Run such a process meanwhile; none if `share` is 0."""
    if not share:
        yield
        return
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.beside", str(share)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def take(share: float) -> None:
    """Compute for this share of a period, then sleep until it ends."""
    end, used = time.monotonic() + PERIOD, time.process_time()
    while time.process_time() - used < share * PERIOD and time.monotonic() < end:
        pass
    time.sleep(max(0.0, end - time.monotonic()))


if __name__ == "__main__":
    while True:
        take(float(sys.argv[1]))
