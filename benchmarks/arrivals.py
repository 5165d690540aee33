"""When each event reached the sink: a file that the sink writes and the benchmark reads, both mapped to memory.

Events are numbered: the id of event 17 is `bench-00000017`. Word 0 counts the events that arrived, word 1 all POSTs.
From word 2 on are the times of arrival by number, nanoseconds of the monotonic clock, which is one for all processes
of a machine; 0: not yet.
"""

import mmap
from pathlib import Path

MARK = b"bench-"
DIGITS = 8
HEAD = 2


def name(number: int) -> str:
    """The id of an event."""
    return f"{MARK.decode()}{number:0{DIGITS}}"


def number(text: bytes) -> int | None:
    """The number of the event that this text begins."""
    at = text.find(MARK)
    return None if at < 0 else int(text[at + len(MARK) : at + len(MARK) + DIGITS])


class Arrivals:
    """The file, mapped. It is made for `most` events if it is not there."""

    def __init__(self, path: Path, most: int = 0) -> None:
        if most:
            path.write_bytes(bytes(8 * (HEAD + most)))
        with path.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    @property
    def count(self) -> int:
        return self._words[0]

    @property
    def posts(self) -> int:
        return self._words[1]

    def note(self, number: int, at: int) -> None:
        """An event that comes again keeps the time of its first arrival."""
        self._words[1] += 1
        if not self._words[HEAD + number]:
            self._words[HEAD + number] = at
            self._words[0] += 1

    def at(self, number: int) -> int:
        return self._words[HEAD + number]

    def forget(self) -> None:
        """Nothing has arrived."""
        for at in range(len(self._words)):
            self._words[at] = 0
