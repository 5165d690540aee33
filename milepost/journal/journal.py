"""The journal for doors and the gateway: publishes events, and reads the status of a submission."""

from collections.abc import Sequence
from datetime import timedelta

from redis.asyncio import Redis

from milepost.coalescer import Coalescer
from milepost.errors import BacklogFull
from milepost.events.event import Event
from milepost.journal import keys
from milepost.journal.admin import Admin
from milepost.journal.failover import FailoverWatch
from milepost.journal.models import (
    BEAT_FRESH,
    ENDED_AT,
    History,
    Note,
    event_row,
    milliseconds,
    name_text,
)
from milepost.journal.scripts import EventRow, Scripts, ask, checked, size_of
from milepost.journal.wake_ups import WakeUps
from milepost.settings import JournalSettings

BACKLOG_TRUSTED = timedelta(seconds=0.1)
"""How long doors use one count of the backlog."""

MOST_UNCONSUMED = 100
"""Most journals that no stage consumes. Doors refuse an event that would begin one more."""

_READ = (keys.PARTS, keys.HISTORY)
"""The fields of a status whose values `reached` reads. The others may each have the data of an event."""


class Journal:
    """Publishes events and reads statuses. Tasks may share it; concurrent publishes share round trips.

    `admin` is for operators, `wake_ups` for the gateway's pages. `failover` follows one of Redis. `doors` runs the
    scripts that wait for REPLICAS, on a connection of its own, so that nothing else waits with them: publish and pause,
    and in broker mode announce and bury_given_up. Hops, adoption and replays do not wait.
    Methods raise JournalUnavailable if Redis cannot be reached or refuses.
    """

    def __init__(self, redis: Redis, settings: JournalSettings) -> None:
        self.redis = redis
        self.scripts = Scripts(redis)
        self.doors = Scripts(redis, replicas=settings.replicas) if settings.replicas else self.scripts
        self.admin = Admin(self.scripts, self.doors)
        self.wake_ups = WakeUps(redis)
        self.failover = FailoverWatch(redis)
        self._dedup = milliseconds(settings.dedup)
        self._limit = settings.backlog_limit
        self._publishes: Coalescer[EventRow, bytes] = Coalescer(self._publish_all, size=size_of)

    async def publish(self, event: Event) -> bool:
        """Journal `event` and announce it on its channel, in one atomic step.

        Returns False, and does nothing, if an event of this source and id was published before. Returns once REPLICAS
        have the event. Raises JournalUnavailable; BacklogFull, and writes nothing, if too many events wait, in all or
        for this channel.
        """
        answer = await self._publishes.submit(event_row(event))
        if answer == b"full":
            raise BacklogFull(f"the backlog is at its limit of {self._limit} events")
        if answer == b"crowded":
            raise BacklogFull(
                f"no stage consumes {event.type!r}, and {MOST_UNCONSUMED} channels that none consumes exist already"
            )
        if answer == b"closed":
            raise BacklogFull(f"no bridge serves the stages of {event.type!r}, and {self._limit} events wait for them")
        return checked([answer]) == ["done"]

    async def _publish_all(self, rows: Sequence[EventRow]) -> Sequence[bytes]:
        answers = await self.doors.publish(
            limit=self._limit,
            fresh=milliseconds(BEAT_FRESH),
            most_unconsumed=MOST_UNCONSUMED,
            trusted=milliseconds(BACKLOG_TRUSTED),
            dedup=self._dedup,
            events=rows,
        )
        return list(answers)

    async def status(self, event_id: str) -> dict[str, Note]:
        """Return the channels that a submission has reached, oldest first; empty if there is no status of this id."""
        return (await self.whole_status(event_id))[0]

    async def whole_status(self, event_id: str) -> tuple[dict[str, Note], dict[str, History]]:
        """Return the same, and for operators the history of the events of this id at each stage."""
        fields = await self.ask(self.redis.hgetall(keys.status(event_id)))
        found = {name_text(name): text for name, text in fields.items()}
        histories = {
            name.removeprefix(keys.HISTORY): History.read(text)
            for name, text in found.items()
            if name.startswith(keys.HISTORY)
        }
        notes = {
            channel: note
            for channel, text in found.items()
            if not channel.startswith(keys.HISTORY) and (note := Note.read(text))
        }
        return dict(sorted(notes.items(), key=lambda item: item[1].at)), histories

    async def reached(self, event_ids: Sequence[str]) -> list[dict[str, int]]:
        """Return for each event the names in its status, each with 0, or of `parts:STAGE` with the number of parts.

        The names are channels, `dead:STAGE`, `parts:STAGE`, and `ended:STAGE` for each stage whose history ends with a
        delivery: unlike `with_ends` of the gateway, also where it has answered. An event without a status has none.
        """
        async with self.redis.pipeline(transaction=False) as look:
            for event_id in event_ids:
                look.hkeys(keys.status(event_id))
            found = [[*map(name_text, fields)] for fields in await self.ask(look.execute())]
        reached = [{name: 0 for name in names if not name.startswith(keys.HISTORY)} for names in found]
        read = [(place, name) for place, names in enumerate(found) for name in names if name.startswith(_READ)]
        async with self.redis.pipeline(transaction=False) as look:
            for place, name in read:
                look.hget(keys.status(event_ids[place]), name)
            for (place, name), text in zip(read, await self.ask(look.execute()), strict=True):
                if name.startswith(keys.PARTS):
                    note = Note.read(text or b"")
                    reached[place][name] = note.parts if note else 0
                elif History.read(text or b"").is_delivered:
                    reached[place][ENDED_AT + name.removeprefix(keys.HISTORY)] = 0
        return reached

    async def backlog(self) -> int:
        """Return the number of journaled, parked and dead events, those of unserved stages included."""
        return int(await self.scripts.backlog(fresh=milliseconds(BEAT_FRESH)))

    async def ping(self) -> None:
        """Raise JournalUnavailable unless new connections lead to a primary and the present one answers."""
        await self.ask(self.failover.look())
        await self.scripts.call("EXISTS", keys.JOURNALS)  # a server that takes no writes refuses PING, too

    async def check_writable(self) -> None:
        """The same, and raise it if that server takes no writes: its disk has failed, or it has too few replicas."""
        await self.ping()
        await self.scripts.call("XACK", f"{keys.JOURNALS}:none", "none", "0-0")  # a full Redis allows it

    ask = staticmethod(ask)

    async def close(self) -> None:
        """Close every connection."""
        await self.doors.connection.close()
        await self.scripts.close()
