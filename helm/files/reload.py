"""With `reload: true`, run `python3 -m MODULE` and restart it when a source file under /app changes.

When the module ends by itself, because of an error in the new code, wait for the next change. If this process ended,
the container would start again with the image's files.
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
    """Return the modification time and inode of each source. A synced file is a new file, so its inode differs."""
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
    """End the module and return its exit status."""
    process.terminate()
    return process.wait()


before = sources()
module = start()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(stop(module)))

while True:
    time.sleep(LOOK_EVERY)
    module.poll()  # reap a module that ended by itself
    now = sources()
    if now != before:
        changed = sorted({str(path) for path, _ in now.items() ^ before.items()})
        print(f"reload: {', '.join(changed)} changed", flush=True)
        stop(module)
        before, module = now, start()
