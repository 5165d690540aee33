"""Cut the power of a server: it dies before a sync of its log, and the log loses bytes that were never synced.

SIGKILL alone loses nothing that was written, because the kernel still has it. `synced.c` is preloaded into the server.
It notes the length of the log that each sync has put on disk, and kills the server when it is about to sync again. So
there are always bytes that were written and not synced, and `lose` cuts some of them off.
"""

import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.servers import Server, eventually

COMPILER = shutil.which("cc")

LOGS = {"redis": ".incr.aof", "mongo": "WiredTigerLog"}
"""A part of the path of each server's log."""

Place = Callable[[int, int], int]
"""Where the log is cut: from the synced length and the written one."""


def at_the_last_synced_byte(synced: int, _written: int) -> int:
    return synced


def at_a_random_byte_after_it(synced: int, written: int) -> int:
    """One byte before the end at the latest, so that the last command is broken."""
    return random.randrange(synced, written)


class Power:
    """`server` with the library preloaded; make it before the server starts."""

    def __init__(self, server: Server, component: str, folder: Path) -> None:
        self._server = server
        self._cut = folder / "cut"
        self._synced = folder / "synced"
        library = folder / "synced.so"
        source = Path(__file__).parent / "synced.c"
        subprocess.run([str(COMPILER), "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        server.env |= {
            "LD_PRELOAD": str(library),
            "WATCHED": LOGS[component],
            "SYNCED": str(self._synced),
            "CUT": str(self._cut),
        }

    async def cut(self) -> None:
        """Wait until the server dies at its next sync."""
        self._cut.touch()
        await eventually(lambda: not self._server.alive, 60, "the server syncs")
        self._cut.unlink()

    def lose(self, place: Place) -> int:
        """Cut the log. Returns how many bytes it lost. A log made at its full length is zero from there on."""
        length, _, name = self._synced.read_text().splitlines()[-1].partition(" ")
        log = Path(name)
        data = log.read_bytes()
        written, synced = len(data.rstrip(b"\0")), int(length)
        at = place(synced, written) if synced < written else synced
        log.write_bytes(data[:at].ljust(len(data), b"\0") if written < len(data) else data[:at])
        return max(0, written - at)
