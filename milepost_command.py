"""The `milepost` command's first lines: Ctrl-C ends it already while the library is imported, without a traceback.

It stands beside the package because whatever is in the package imports the package first.
"""

import os
import signal

INTERRUPTED = 130


def main() -> None:
    """Run the command. `milepost.cli`, once it is imported, sees to Ctrl-C itself."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from milepost.cli import main as run  # noqa: PLC0415 - this is what takes its time

    run()
