"""What gateway and bridge run with `reload: true`: `python3 -m MODULE`, started anew when a source under /app changes.

A module that ends by itself, by an error in what was just synced, is waited for: to end with it would bring back the
image's files.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

SOURCES = {".py", ".lua", ".html", ".css", ".js", ".svg", ".json"}
LOOK_EVERY = 0.3
"""Seconds."""


def sources() -> dict[Path, tuple[int, int]]:
    """Modification time and inode of each source: a synced file has others, if only because it is another file."""
    found = {}
    for path in Path().rglob("*"):
        try:
            if path.suffix in SOURCES:
                state = path.stat()
                found[path] = (state.st_mtime_ns, state.st_ino)
        except FileNotFoundError:
            continue
    return found


def start() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", *sys.argv[1:]])  # noqa: S603 - the chart's own command


def stop(process: "subprocess.Popen[bytes]") -> int:
    """Its exit status."""
    process.terminate()
    return process.wait()


before = sources()
module = start()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(stop(module)))

while True:
    time.sleep(LOOK_EVERY)
    module.poll()  # or one that ended by itself would be shown as defunct
    now = sources()
    if now != before:
        changed = sorted({str(path) for path, _ in now.items() ^ before.items()})
        print(f"reload: {', '.join(changed)} changed", flush=True)
        stop(module)
        before, module = now, start()
