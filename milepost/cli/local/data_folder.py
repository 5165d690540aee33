"""The data folder of `milepost up`.

DIR/up           locked (flock) by `milepost up` alone: free when it has ended
DIR/lock         locked by `milepost up`, and by every component, which inherit it: free when all have ended. It has the
                 process id of `up`, for people to read
DIR/stack.json   where everything is, from when all is ready until the end. A killed `up` leaves it behind
DIR/redis        the embedded Valkey's append-only file
DIR/mongo        the embedded MongoDB-compatible server's data (and mongo.toml, empty)
DIR/sent_emails  and other files that stages ask for (`files` in the values)
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from milepost.errors import ConfigurationError

DEFAULT = Path(".milepost")
STACK = "stack.json"
FREE_WITHIN = 10.0
"""Seconds in which the lock of a killed `up` must come free. Its components are killed with it, but not instantly."""


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Make the data folder if need be and lock it. Gives the lock's descriptor.

    Raises ConfigurationError if another `milepost up` uses the folder, or it cannot be written.
    """
    with ExitStack() as descriptors:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            up, lock = (_open(folder / name, descriptors) for name in ("up", "lock"))
            if not (_try_lock(up, 0.0) and _try_lock(lock, FREE_WITHIN)):
                holder = os.pread(lock, 20, 0).decode(errors="replace")
                raise ConfigurationError(
                    f"{folder}: in use by another `milepost up`, process {holder}, or by what it started; stop it, or "
                    "choose another folder with --data"
                )
        except OSError as fault:
            raise ConfigurationError(f"{folder}: {fault.strerror}; choose another folder with --data") from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        remove_stack(folder)  # of one that was killed
        yield lock


def write_stack(folder: Path, stack: Mapping[str, Any]) -> None:
    """Write stack.json in one step. It may hold a password: mode 0600."""
    draft = folder / f"{STACK}.new"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(stack, indent=2) + "\n")
    draft.replace(folder / STACK)


def remove_stack(folder: Path) -> None:
    (folder / STACK).unlink(missing_ok=True)


def read_stack(folder: Path) -> dict[str, Any]:
    """The contents of stack.json; empty if there is none. Raises ConfigurationError if it cannot be read."""
    path = folder / STACK
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as fault:
        raise ConfigurationError(f"{path}: cannot be read: {fault}") from None


def _open(path: Path, descriptors: ExitStack) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    descriptors.callback(os.close, descriptor)
    return descriptor


def _try_lock(descriptor: int, within: float) -> bool:
    """Lock a file. False if another process has it locked for so many seconds."""
    end = monotonic() + within
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() >= end:
                return False
        else:
            return True
        sleep(0.05)
