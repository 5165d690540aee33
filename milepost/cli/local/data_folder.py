"""The data folder of `milepost up`.

DIR/lock         locked (flock) by `milepost up`, and by every component, which inherit it: free when all have ended
DIR/stack.json   where everything is, from when all is ready until the end. A killed `up` leaves it behind
DIR/redis        the embedded Valkey's append-only file
DIR/mongo        the embedded MongoDB-compatible server's data (and mongo.toml, empty)
DIR/sent_emails  and other files that stages ask for (`files` in the stages table)
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
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
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        _lock(lock, folder)
    except OSError as fault:
        raise ConfigurationError(f"{folder}: {fault.strerror}; choose another folder with --data") from None
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        remove_stack(folder)  # of one that was killed
        yield lock
    finally:
        os.close(lock)


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


def _lock(lock: int, folder: Path) -> None:
    """Lock the folder. Raises ConfigurationError if another `up`, or a process of a killed `up`, does not end."""
    end = time.monotonic() + FREE_WITHIN
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace")
        if (holder.isdigit() and is_alive(int(holder))) or time.monotonic() > end:
            raise ConfigurationError(
                f"{folder}: in use by another `milepost up`, process {holder}, or by what it started; stop it, or "
                "choose another folder with --data"
            )
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process of this user has this id."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
