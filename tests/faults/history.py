"""The history of a row: one operation a line, as JSON, from each client, function and mail.

| kind | `by` | one operation | `answer` |
| --- | --- | --- | --- |
| `publish` | a door | one try of a client to hand in a submission; `line` is the mail it must bring | HTTP status |
| `deliver` | a stage | one event in one request, as the stage's process saw it | HTTP status |
| `mail` | | a line in the file of mails; it came between two looks | |
| `record` | | a record of `store` in MongoDB, with the mail it must bring | |
| `mark` | | a record of `email` in MongoDB | how often the mail was taken to be sent |
| `part` | a channel | an answer to a part of a split event, as its channel's journal has it | |
| `left` | journals, parked, held, dead | an event that is in Redis when nothing moves any more | |
| `bury` | a stage | an event that the row expects to be a dead letter | |
| `destroy` | | an event that the row itself deleted | |
| `reply` | a stage | what the bridge got for one event where a StageProxy stands before the stage | HTTP status |
| `end` | a component | a process that the row ended; `end` is when it was ready again | number of the signal |
| `freeze` | a component, or connections | stopped or silenced by the row; `end` is when it went on | |
| `stall` | connections | silenced for good, and open | |
| `failover` | | from the fault until the servers had agreed on another primary | |
| `operate` | a command | a `milepost` command of the row, such as a replay | exit status |

A `publish` without a `line` is of an event for a stage of the row's own, which brings no mail. `full` says that a door
refused since the backlog is full. That is certain unless the connection to Redis broke in the same try, since redis-py
then sends the script again; no row does both.

Times are seconds of the machine's monotonic clock, which all its processes share. An operation without `end` had no
answer: its process ended before, or the client's connection failed. It may have had its effect or not.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of a history."""

    kind: str
    begin: float
    end: float | None = None
    id: str | None = None
    """The event's id; None where the client does not know it."""
    answer: int | None = None
    by: str = ""
    to: str = ""
    """The address of the submission."""
    line: str = ""
    full: bool = False

    def as_json(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def of_json(cls, text: bytes) -> Self:
        return cls(**json.loads(text))


class History:
    """The operations that this process records, and those that the functions' processes record in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._recorded: list[Operation] = []

    def add(self, operation: Operation) -> None:
        self._recorded.append(operation)

    def read(self) -> list[Operation]:
        """All operations, by the time that they began."""
        found = list(self._recorded)
        for path in self.folder.glob("*.jsonl"):
            found += merged(path.read_bytes().splitlines())
        return sorted(found, key=lambda operation: operation.begin)


def write(path: Path, history: Iterable[Operation]) -> None:
    path.write_bytes(b"".join(operation.as_json() for operation in history))


class Recorder:
    """Writes one process's deliveries to a file of its own: one line when each begins, one when it ends.

    A line is written with one system call, so it outlives the process. `History.read` makes one operation of both.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        path = folder / f"{stage}-{os.getpid()}-{time.monotonic_ns()}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._stage = stage
        self._count = 0

    def begin(self, events: Mapping[str, str]) -> Sequence[tuple[int, str]]:
        """`events`: id → address. Returns what `end` needs."""
        now = time.monotonic()
        numbered = list(enumerate(events, self._count))
        self._count += len(numbered)
        self._write(
            {"n": n, **asdict(Operation("deliver", now, id=event_id, by=self._stage, to=events[event_id]))}
            for n, event_id in numbered
        )
        return numbered

    def end(self, numbered: Sequence[tuple[int, str]], answers: Mapping[str, int]) -> None:
        now = time.monotonic()
        self._write({"n": n, "end": now, "answer": answers[event_id]} for n, event_id in numbered)

    def _write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        os.write(self._file, b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def merged(lines: Iterable[bytes]) -> Iterator[Operation]:
    """One operation of the two lines of each delivery. The last line may be half of one: the process was killed."""
    begun: dict[int, Operation] = {}
    for line in lines:
        try:
            read = json.loads(line)
        except ValueError:
            break
        number = read.pop("n")
        begun[number] = replace(begun[number], **read) if number in begun else Operation(**read)
    yield from begun.values()
