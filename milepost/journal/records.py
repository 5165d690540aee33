"""What the journal hands out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from milepost import keys
from milepost.events.event import Event
from milepost.events.strict_json import dumps

BEAT_FRESH = 60.0
"""Seconds without a beat after which a stage is not served."""

LARGEST_NOTE = 64_000
"""Bytes of data that progress keeps of one event; larger data is noted as null."""


LONGEST_NUMBER = 15
"""Digits that milliseconds and counts may have: Lua's numbers are exact that far."""


@dataclass(frozen=True, slots=True)
class Note:
    """When a submission reached a channel, and with which data."""

    at: datetime
    data: Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One journal entry, claimed by this consumer. `since` in milliseconds of Redis time."""

    id: str
    channel: str
    event: bytes
    only: str
    since: int
    attempts: int
    crashes: int

    @classmethod
    def read(cls, channel: str, row: tuple[bytes, Sequence[bytes] | dict[bytes, bytes]]) -> "Entry":
        """From an XREADGROUP or XRANGE row. In a stranger's entry a field without sense says nothing;
        one without an event is for no stage to take.
        """
        name, body = row
        fields = body if isinstance(body, dict) else dict(zip(body[::2], body[1::2], strict=True))
        entry = name.decode()
        return cls(
            id=entry,
            channel=channel,
            event=fields.get(b"event", b""),
            only=fields.get(b"for", b"").decode(errors="replace"),
            since=_whole(fields.get(b"since"), int(entry.partition("-")[0])),
            attempts=_whole(fields.get(b"attempts"), 0),
            crashes=_whole(fields.get(b"crashes"), 0),
        )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that no retry can help. `event` is its JSON text, or for stage `bridge` the raw message."""

    stage: str
    entry: str
    channel: str
    event: bytes
    id: str | None
    reason: str
    status: int | None
    attempts: int
    crashes: int
    at: datetime

    @classmethod
    def read(cls, stage: str, row: tuple[bytes, dict[bytes, bytes]]) -> "DeadLetter":
        """From an XRANGE row."""
        name, fields = row
        return cls(
            stage=stage,
            entry=name.decode(),
            channel=fields[b"channel"].decode(),
            event=fields[b"event"],
            id=fields[b"id"].decode() or None,
            reason=fields[b"reason"].decode(),
            status=int(fields[b"status"]) if fields[b"status"] else None,
            attempts=int(fields[b"attempts"]),
            crashes=int(fields[b"crashes"]),
            at=moment(int(fields[b"time"])),
        )


@dataclass(frozen=True, slots=True)
class StageStatus:
    """A stage as the bridges' route table has it, with what lies before it. Counts are events."""

    name: str
    consumes: tuple[str, ...]
    emits: tuple[str, ...]
    url: str
    served: bool
    backlog: int
    parked: int
    dead: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What went with a forgotten stage. Counts are events."""

    parked: int
    dead: int


def _whole(field: bytes | None, otherwise: int) -> int:
    return int(field) if field and field.isdigit() and len(field) <= LONGEST_NUMBER else otherwise


def moment(milliseconds: float) -> datetime:
    """Redis time as a datetime, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def milliseconds(duration: timedelta) -> int:
    """Whole milliseconds, at least one."""
    return max(1, round(duration / timedelta(milliseconds=1)))


def event_keys(event: Event) -> tuple[str, str, str]:
    """The keys of a script's `read_event`."""
    return keys.journal(event.type), keys.seen(event.source, event.id), keys.progress(event.id)


def event_arguments(event: Event) -> tuple[str, str, str]:
    """The arguments of a script's `read_event`: channel, text, and the data as progress notes it."""
    data = dumps(event.data)
    return event.type, event.to_json(), data if len(data) <= LARGEST_NOTE else "null"
