"""Run a command so that it dies with the process that started it: `python tether.py PARENT COMMAND…`.

The command takes this process's place, so it keeps its pid. On Linux the kernel kills it when the parent ends, even
by SIGKILL; elsewhere a watcher, left beside it, does. It stands before the start of every component: it is run by
its path, and imports as little as it can.
"""

import contextlib
import os
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def main() -> NoReturn:
    """Tie this process to the parent, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    _tie(parent)
    if os.getppid() != parent:  # it ended before the tie was made
        sys.exit(1)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec hands that on
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as fault:
        sys.exit(f"{command[0]}: {fault.strerror}")


def _tie(parent: int) -> None:
    """Have this process killed when the parent ends: by the kernel, or (kqueue: macOS, BSD) by a watcher beside it."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    import select  # noqa: PLC0415

    command = os.getpid()
    if os.fork():
        return
    os.closerange(0, 256)  # the command's output, and the lock of the data folder, are not the watcher's
    queue = select.kqueue()
    ends = [
        select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT) for pid in (command, parent)
    ]
    try:
        queue.control(ends, 0)
        ended = queue.control(None, 1)[0].ident
    except ProcessLookupError:  # one of them had ended already
        ended = parent
    if ended == parent:
        with contextlib.suppress(ProcessLookupError):
            os.kill(command, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
