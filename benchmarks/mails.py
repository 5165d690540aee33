"""The e-mails as they leave: the lines of SENT_EMAILS, a pipe here, so that each is seen when it is written."""

import asyncio
import os
import time
from pathlib import Path

from benchmarks.arrivals import number


class Mails:
    """Reads the pipe in the running loop; `sent[17]` is when the mail of submission 17 was first seen, monotonic ns."""

    def __init__(self, path: Path) -> None:
        self.sent: dict[int, int] = {}
        self._rest = b""
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # a writer of its own: it never sees the end
        asyncio.get_running_loop().add_reader(self._pipe, self._read)

    def _read(self) -> None:
        now = time.monotonic_ns()
        *lines, self._rest = (self._rest + os.read(self._pipe, 1 << 16)).split(b"\n")
        for line in lines:
            found = number(line)
            if found is not None:
                self.sent.setdefault(found, now)

    async def all(self, count: int, *, within: float = 120.0) -> None:
        """Wait until so many submissions have been mailed. Raises TimeoutError."""
        async with asyncio.timeout(within):
            while len(self.sent) < count:  # noqa: ASYNC110 - counted while it waits, and a millisecond is no matter
                await asyncio.sleep(0.001)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pipe)
        os.close(self._pipe)
