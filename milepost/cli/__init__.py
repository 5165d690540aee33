"""The command line: run the whole pipeline on one machine, and look into one that runs."""

import os
import signal
from typing import NoReturn

from milepost.cli.exits import Exit

SHOW_CURSOR = b"\x1b[?25h"


def main() -> None:
    """The `milepost` command. Ctrl-C ends it at once from here on, though half a second of imports is still to come.

    `milepost up`, which has something to end in order, sets handlers of its own.
    """
    signal.signal(signal.SIGINT, _end)
    from milepost.cli.app import main as run  # noqa: PLC0415 - see above

    run()


def _end(*_: object) -> NoReturn:
    """Why not asyncio's own way: before Python 3.12 redis-py can swallow the one cancellation that it makes of Ctrl-C,
    and a thread that waits for a line of stdin is waited for. Redis sees the connection close.
    """
    if os.isatty(2):
        os.write(2, SHOW_CURSOR)  # a progress bar hides it
    os._exit(Exit.INTERRUPTED)
