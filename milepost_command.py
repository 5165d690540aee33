"""The entry point of the `milepost` command: Ctrl-C ends it without a traceback while the library is still imported.

It is no part of the package, because importing a module of a package imports the package first.
"""

import os
import signal

INTERRUPTED = 130


def main() -> None:
    """Run the command. `milepost.cli` replaces the signal handler as soon as it is imported."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from milepost.cli import main as run

    run()
