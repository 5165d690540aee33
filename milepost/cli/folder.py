"""The data folder of `milepost up`: its lock, and `stack.json`, by which other commands find what runs.

DIR/lock         held (flock) by `milepost up` and, inherited, by every component: free only when all have ended
DIR/stack.json   what runs where; there from when everything is ready until the end. A killed `up` leaves it behind
DIR/redis        the embedded Valkey's append-only file
DIR/mongo        (and mongo.toml, empty) the embedded MongoDB-compatible server's storage
DIR/sent_emails  and what other files the stages ask for (`files` in the table): here the e-mails, one a line
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
LAST_ONES_WITHIN = 10.0
"""Seconds given to the components of a killed `up`: the kernel kills them with it, but not in no time."""


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Make the data folder if need be, take it up, and hold its lock. Gives the lock's descriptor.

    Raises ConfigurationError if another `milepost up` uses it, or it cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as fault:
        raise ConfigurationError(f"{folder}: {fault.strerror}; choose another folder with --data") from None
    try:
        _take(lock, folder)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        remove_stack(folder)  # left by one that was killed
        yield lock
    finally:
        os.close(lock)


def write_stack(folder: Path, stack: Mapping[str, Any]) -> None:
    """Write stack.json so that a reader sees the old one or the new one. It may hold a password: mode 0600."""
    draft = folder / f"{STACK}.new"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(stack, file, indent=2)
        file.write("\n")
    draft.replace(folder / STACK)


def remove_stack(folder: Path) -> None:
    """Say that nothing runs."""
    (folder / STACK).unlink(missing_ok=True)


def read_stack(folder: Path) -> dict[str, Any] | None:
    """What stack.json says; None if there is none. Raises ConfigurationError if it is not ours."""
    path = folder / STACK
    try:
        stack = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as fault:
        raise ConfigurationError(f"{path}: cannot be read: {fault}") from None
    if not isinstance(stack, dict):
        raise ConfigurationError(f"{path}: not an object")
    return stack


def _take(lock: int, folder: Path) -> None:
    end = time.monotonic() + LAST_ONES_WITHIN
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace")
            if _is_alive(holder):
                raise ConfigurationError(
                    f"{folder}: in use by another `milepost up`, process {holder}; stop it, or choose another folder "
                    "with --data"
                ) from None
            if time.monotonic() > end:
                raise ConfigurationError(
                    f"{folder}: still in use by what process {holder or '?'}, now gone, started; end it, or choose "
                    "another folder with --data"
                ) from None
            time.sleep(0.05)
        except OSError as fault:
            raise ConfigurationError(f"{folder}: cannot be locked ({fault.strerror}); choose a local folder") from None
        else:
            return


def _is_alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
