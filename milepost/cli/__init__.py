"""The command line: run the whole pipeline on one machine, and look into one that runs."""

import os
import signal
import traceback
from typing import NoReturn

from milepost.cli import streams
from milepost.cli.exits import Exit


def main() -> NoReturn:
    """The `milepost` command. Ctrl-C ends it at once from here on, also while the rest is imported (half a second).

    `milepost up` sets signal handlers of its own, to end its processes in order.
    """
    streams.install()
    signal.signal(signal.SIGINT, _end)
    code: int | str | None = Exit.FAILED
    try:
        from milepost.cli.app import main as run

        run()
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - as the interpreter would do, but without its end
        traceback.print_exc()
    streams.leave(code if isinstance(code, int) else Exit.DONE if code is None else Exit.FAILED)


def _end(*_: object) -> NoReturn:
    """End at once.

    Not asyncio's way: before Python 3.12 redis-py can swallow the one cancellation that asyncio makes of Ctrl-C, and
    asyncio waits for a thread that reads stdin. Redis sees the connection close.
    """
    os._exit(Exit.INTERRUPTED)
