"""What processes used, as the operating system accounts for it (Linux, proc(5)). None of it asks the process itself."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    """`pid` and all that descends from it and is alive."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from family(int(child))


def cpu(pids: Iterable[int]) -> float:
    """CPU seconds, user and system, of these processes and all their descendants, those that have ended included."""
    return sum(_ticks(one) for pid in pids for one in family(pid)) * _TICK


def _ticks(pid: int) -> int:
    # The second field is a name in parentheses that may hold anything; utime, stime, cutime, cstime are 14 to 17.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15])


def peak_memory(pids: Iterable[int]) -> float:
    """The largest resident size these processes ever had, added up, in MB."""
    return sum(_high_water(one) for pid in pids for one in family(pid)) / 1000


def _high_water(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0
