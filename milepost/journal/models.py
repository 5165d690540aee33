"""The data of the journal: entries, dead letters, stages and their depth, the status of a submission."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import Field

from milepost.errors import EventError
from milepost.events.batch import MOST_ANSWERS
from milepost.events.event import Event
from milepost.events.strict_json import DEEPEST, loads
from milepost.graph import order_name
from milepost.journal import keys
from milepost.journal.scripts import EventRow

BEAT_FRESH = 60.0
"""Seconds without a beat after which a stage is not served."""

GAVE_UP = "dead:"
"""Prefix of a stage that gave a submission up, among the channels of its status."""

ENDED_AT = "ended:"
"""Prefix of a stage at which a submission ended without an answer, among the channels that a reader is shown."""

LARGEST_NOTE = 64_000
"""Most characters of an event's data that a status keeps. Larger data is null there."""

_ENTRY = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")

LATEST = datetime(9999, 1, 1, tzinfo=UTC)
"""The latest time that is shown of an entry. Another program may choose the id of an entry, and so its time."""

LONGEST_NUMBER = 15
"""Most digits of milliseconds and counts: Lua's numbers are exact so far."""


@dataclass(frozen=True, slots=True)
class Note:
    """When a submission reached a channel, and with which data."""

    at: datetime
    data: Any

    @classmethod
    def read(cls, text: bytes) -> "Note | None":
        """Read a note of the scripts (`write_status` in common.lua). None: another version or program wrote it."""
        try:
            note = loads(text, deepest=DEEPEST + 4)
            return cls(moment(note["at"] / 1000), note["data"])
        except (ValueError, KeyError, TypeError, OverflowError, OSError):
            return None

    @property
    def parts(self) -> int:
        """How many parts a stage made, in a note of PARTS; 0 if it does not say."""
        parts = self.data.get("parts") if isinstance(self.data, dict) else None
        return parts if type(parts) is int and 0 <= parts <= MOST_ANSWERS else 0


@dataclass(frozen=True, slots=True)
class HistoryStep:
    """Something that happened to an event at a stage.

    `did`: `delivered`, `failed`, `delayed`, `held`, `buried` or `replayed`. `answer`: the reason of a failure. `due`:
    when the event is tried again. `given_out`: how often Redis gave out its entry, more than once if a bridge died or
    stopped. `order`: of a held event, the begin of its member among the held ones.
    """

    time: datetime
    did: str
    answer: str = ""
    due: datetime | None = None
    given_out: int = 1
    order: Annotated[str, Field(exclude=True)] = ""


@dataclass(frozen=True, slots=True)
class History:
    """The history of an event at a stage: the first step and the latest ones, of `count` in all."""

    count: int = 0
    steps: tuple[HistoryStep, ...] = ()

    @property
    def is_delivered(self) -> bool:
        """Whether the stage has taken the event."""
        return bool(self.steps) and self.steps[-1].did == "delivered"

    @classmethod
    def read(cls, text: bytes) -> "History":
        """Read a history of the scripts (`note` in common.lua). Any other text is an empty history."""
        try:
            history = loads(text.decode(errors="ignore"))  # an answer may be cut within a letter
            steps = [
                HistoryStep(
                    time=moment(step["at"]),
                    did=step["did"],
                    answer=step.get("answer", ""),
                    due=moment(step["due"]) if "due" in step else None,
                    given_out=step.get("times", 1),
                    order=step.get("order", ""),
                )
                for step in history["steps"]
            ]
            return cls(int(history["count"]), tuple(steps))
        except (ValueError, KeyError, TypeError, OverflowError, OSError):
            return cls()


@dataclass(slots=True)  # frozen, each would take five times as long to make
class Entry:
    """One entry of a stream, claimed by this consumer.

    `since` in milliseconds of Redis TIME: from when the deadline counts. `attempts` and `crashes`: failures that were
    counted, with and without a response. `retried`: it comes from the retries: it was parked and is due (a delayed
    event for the first time), or was replayed; false for one that was held and not tried. `deliveries`: how often Redis
    has given out this entry. `only`: the stage that it is for, of an entry that version 0.1 journaled as a retry; else
    empty.
    """

    stream: str
    id: str
    channel: str
    event: bytes
    since: int
    attempts: int = 0
    crashes: int = 0
    deliveries: int = field(default=1, compare=False)
    retried: bool = False
    only: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Identifies it among all entries of a consumer."""
        return self.stream, self.id

    @property
    def failures(self) -> int:
        """How many deliveries failed and were counted."""
        return self.attempts + self.crashes

    @classmethod
    def journaled(cls, stream: str, channel: str, name: bytes, event: bytes) -> "Entry":
        """Read an entry of a journal that has only an event."""
        entry = name.decode()
        return cls(stream, entry, channel, event, int(entry.partition("-")[0]))

    @classmethod
    def read(
        cls,
        stream: str,
        channel: str,
        name: bytes,
        body: Sequence[bytes],
        *,
        deliveries: int = 1,
        retried: bool = False,
    ) -> "Entry":
        """Read an entry of a journal, or of a stream of retries.

        A field that is not valid counts as absent. An entry without an event is delivered, and its stage refuses it.
        """
        entry = name.decode()
        since = int(entry.partition("-")[0])
        if len(body) == 2 and body[0] == b"event":  # most entries: journaled, and not tried before
            return cls(stream, entry, channel, body[1], since, deliveries=deliveries, retried=retried)
        if len(body) == 4 and body[2] == b"order":  # it was held, and not tried before
            return cls(stream, entry, channel, body[1], time_of(body[3]) or since, deliveries=deliveries)
        fields = dict(zip(body[::2], body[1::2], strict=True))
        only = fields.get(b"for", b"").decode(errors="replace")
        return cls(
            stream=stream,
            id=entry,
            channel=channel,
            event=fields.get(b"event", b""),
            since=_whole(fields.get(b"since"), since),
            attempts=_whole(fields.get(b"attempts"), 0),
            crashes=_whole(fields.get(b"crashes"), 0),
            deliveries=deliveries,
            retried=retried or bool(only),
            only=only,
        )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter. `event` is the JSON text of the event; for stage `bridge` it is the message as it came."""

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

    @property
    def failures(self) -> int:
        """How many deliveries failed and were counted."""
        return self.attempts + self.crashes

    @classmethod
    def read(cls, stage: str, row: tuple[bytes, Mapping[bytes, bytes]]) -> "DeadLetter":
        """Read an XRANGE row. A field that makes no sense counts as absent."""
        name, fields = row
        entry = name.decode()

        def text(field: bytes) -> str:
            return fields.get(field, b"").decode(errors="replace")

        return cls(
            stage=stage,
            entry=entry,
            channel=text(b"channel"),
            event=fields.get(b"event", b""),
            id=text(b"id") or None,
            reason=text(b"reason"),
            status=_whole(fields.get(b"status"), 0) or None,
            attempts=_whole(fields.get(b"attempts"), 0),
            crashes=_whole(fields.get(b"crashes"), 0),
            at=time_of_entry(_whole(fields.get(b"time"), int(entry.partition("-")[0]))),
        )


def is_entry(text: str) -> bool:
    """Whether Redis takes this text for the id of an entry: two numbers of 64 bits."""
    found = _ENTRY.fullmatch(text)
    return found is not None and all(int(number) < 2**64 for number in found.groups())


def entries_by_channel(letters: Iterable[DeadLetter]) -> list[list[str]]:
    """Return the entries of dead letters, in a list for each channel: a stage may be served on some channels alone."""
    entries: dict[str, list[str]] = {}
    for letter in letters:
        entries.setdefault(letter.channel, []).append(letter.entry)
    return list(entries.values())


@dataclass(frozen=True, slots=True)
class Wiring:
    """A route as the stages table shows it.

    It answers an event on one of `emits`. `behind`: stages that get their events through it. `needs_data`: channels of
    which functions refuse an event without data.
    """

    consumes: Sequence[str]
    emits: Sequence[str]
    url: str
    behind: "Mapping[str, Wiring]" = field(default_factory=dict)
    needs_data: Sequence[str] = ()
    split: bool = False
    """Whether it may give several answers to one event."""
    order: str | bool = False
    """The field that its events are ordered by, or True for `partitionkey`."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How many events wait for a stage. `journaled`: in the journals and not settled, retries and held ones included.

    `oldest`: seconds since the oldest of these events was journaled, or None. Of the parked ones only the next due is
    looked at.
    """

    stage: str
    journaled: int
    parked: int
    dead: int
    oldest: float | None
    held: int = 0
    """How many of the journaled ones are held: an earlier event of their key is not finished."""


@dataclass(frozen=True, slots=True)
class StageState:
    """A stage as the stages table has it, and how many events wait for it."""

    name: str
    consumes: tuple[str, ...]
    emits: tuple[str, ...] = ()
    url: str = ""
    served: bool = False
    journaled: int = 0
    parked: int = 0
    dead: int = 0
    oldest: float | None = None
    """Seconds, as in Depth."""
    held: int = 0
    """As in Depth."""
    order: str | bool = False
    """As in Wiring."""
    paused: bool = False
    left_behind: bool = False
    """Whether it is a place that a stage has left behind on a channel; its name is `stage:channel` then."""

    @property
    def ordered_by(self) -> str:
        """The field of the data with the key of its events, or `partitionkey`; empty if they are in no order."""
        return order_name(self.order)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many events were removed with a stage."""

    parked: int
    dead: int


def time_of(order: bytes) -> int | None:
    """Return when an event of this order (`order_of` in lua/common.lua) was journaled, in milliseconds."""
    return _whole(order.rpartition(b"/")[2].partition(b"-")[0].lstrip(b"0"), 0) or None


def _whole(field: bytes | None, otherwise: int) -> int:
    return int(field) if field and field.isdigit() and len(field) <= LONGEST_NUMBER else otherwise


def name_text(name: bytes) -> str:
    """Return a name in Redis as text, also if it is another program's and no UTF-8."""
    return name.decode(errors="replace")


def read_row(text: bytes) -> dict[str, Any] | None:
    """Read a row of the stages table; None if no bridge has written it."""
    try:
        row = loads(text)
    except ValueError:
        return None
    if not isinstance(row, dict) or type(row.get("beat")) is not int or not isinstance(row.get("url"), str):
        return None
    if not isinstance(row.get("order", False), str | bool):
        return None
    lists = [row.get("consumes"), row.get("emits"), row.get("needsData", [])]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        return None
    return row


def check_data(event: Event, needs_data: Collection[str]) -> None:
    """Raise EventError for an event without data on one of these channels, whose functions would refuse it."""
    if event.data is None and event.type in needs_data:
        raise EventError(f"data: missing; a function consumes {event.type}, and none takes an event without data")


def moment(milliseconds: float) -> datetime:
    """Return a Redis time in milliseconds as a datetime, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def time_of_entry(milliseconds: int) -> datetime:
    """Return the time in the id of an entry as a datetime, LATEST at most."""
    return moment(min(milliseconds, LATEST.timestamp() * 1000))


def milliseconds(duration: timedelta | float) -> int:
    """Return a duration (a float in seconds) in whole milliseconds, at least one."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    return max(1, round(seconds * 1000))


def event_row(event: Event) -> EventRow:
    """Return an event as a row for the scripts."""
    seen = keys.seen(event.source, event.id).removeprefix(keys.SEEN)
    return EventRow(event.type, seen, event.id, event.to_json(), note_of(event))


def note_of(event: Event) -> str:
    """Return an event's data for its status."""
    data = event.data_json()
    return data if len(data) <= LARGEST_NOTE else "null"
