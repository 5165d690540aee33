"""Check the events that wait in a running pipeline against the payload classes and the stages of a checkout."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError
from redis.asyncio import Redis

from milepost.check.schemas import Comparison
from milepost.check.waiting import Place, Waiting, WaitingEvent
from milepost.errors import EventError
from milepost.events import asyncapi
from milepost.events.event import Event
from milepost.events.payload import Payload, faults_of, fields_of
from milepost.graph import Graph, Wired
from milepost.journal.admin import BROKER
from milepost.journal.models import StageState
from milepost.observe.logs import masked

SHOWN = 10
"""Most refused events that are shown one by one."""


class CheckedStage(Wired, Protocol):
    """A stage of the checkout. `external`: its receiver is someone else's, and no class of ours validates for it.

    `order`: the field of the data by which its events are ordered, if there is one.
    """

    @property
    def external(self) -> bool: ...
    @property
    def order(self) -> str | bool: ...


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """An event that a stage would refuse."""

    stage: str
    place: Place
    entry: str
    channel: str
    id: str
    field: str
    fault: str


@dataclass(frozen=True, slots=True)
class Stranded:
    """A stage for which events wait on a channel, and which would not be given them. `why`: `gone`, or `moved`."""

    stage: str
    channel: str
    why: str
    events: int


@dataclass(frozen=True, slots=True)
class Incompatible:
    """A field of a channel's payload that takes less than in the running pipeline."""

    channel: str
    field: str
    fault: str


@dataclass(frozen=True, slots=True)
class Unordered:
    """A stage that is ordered by a field which the payload class of its channel does not have."""

    stage: str
    channel: str
    field: str


@dataclass
class Findings:
    """The result. `events`: how many were read. `refused`: (stage, field) → how many events.

    `channels`: channel that a stage consumes and none would → how many events wait there. `again`: dead letters that
    were refused by their stage and would be again, which is no fault of the checkout.
    """

    events: int = 0
    again: int = 0
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: list[RefusedEvent] = field(default_factory=list)
    stages: list[Stranded] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=dict)
    schemas: list[Incompatible] | None = None
    unordered: list[Unordered] = field(default_factory=list)

    @property
    def breaks(self) -> bool:
        """Whether the checkout would break anything."""
        return bool(self.refused or self.stages or self.channels or self.schemas or self.unordered)

    def as_json(self) -> dict[str, Any]:
        """The result for programs."""
        return {
            "breaks": self.breaks,
            "events": self.events,
            "refused": [
                {"stage": stage, "field": name, "events": events}
                for (stage, name), events in self.refused.most_common()
            ],
            "first": [asdict(event) for event in self.first],
            "stages": [asdict(stage) for stage in self.stages],
            "channels": self.channels,
            "schemas": None if self.schemas is None else [asdict(change) for change in self.schemas],
            "unordered": [asdict(stage) for stage in self.unordered],
            "dead_again": self.again,
        }

    def lines(self) -> list[str]:
        """The result for people, the events that are refused first."""
        made = [f"{stage} would refuse {events} events: {name}" for (stage, name), events in self.refused.most_common()]
        made += [
            f"  {one.stage} {one.place} {one.entry} {one.id or '-'}: {one.field}: {one.fault}" for one in self.first
        ]
        made += [
            f"stage {one.stage} would be gone, with {one.events} events of {one.channel} waiting"
            if one.why == "gone"
            else f"stage {one.stage} would not consume {one.channel} any more, with {one.events} events waiting"
            for one in self.stages
        ]
        made += [
            f"no stage would consume {channel} any more ({events} events wait)"
            for channel, events in self.channels.items()
        ]
        made += [f"{one.channel}: {one.field or 'the payload'} {one.fault}" for one in self.schemas or ()]
        made += [
            f"stage {one.stage} would be ordered by {one.field}, which the payload of {one.channel} does not have"
            for one in self.unordered
        ]
        return made


async def check(
    redis: Redis,
    running: Sequence[StageState],
    payloads: Mapping[str, type[Payload]],
    stages: Sequence[CheckedStage],
    *,
    document: Mapping[str, Any] | None,
    accept: Collection[str] = (),
) -> Findings:
    """Read everything that waits, and check it. `document`: the running pipeline's AsyncAPI, or None.

    `accept`: stages and channels that may go. Events of a place that a stage has left behind wait for no stage in the
    running pipeline either, and are no finding. Raises JournalUnavailable.
    """
    running = [stage for stage in running if not stage.left_behind]
    checker = _Checker(running, payloads, stages, accept)
    table = {stage.name: {"consumes": stage.consumes} for stage in running}
    async for event in Waiting(redis, table, checker.consumes).events():
        checker.take(event)
    found = checker.findings()
    found.unordered = [one for one in unordered(payloads, stages) if not {one.stage, one.channel} & set(accept)]
    if document is not None:
        found.schemas = [
            change for change in incompatible(document, payloads.values(), stages) if change.channel not in accept
        ]
    return found


class _Checker:
    def __init__(
        self,
        running: Sequence[StageState],
        payloads: Mapping[str, type[Payload]],
        stages: Sequence[CheckedStage],
        accept: Collection[str],
    ) -> None:
        self.consumes = {stage.name: channel for stage in stages for channel in Graph([stage]).consumes[stage.name]}
        self._running = running
        self._known = {(stage.name, channel) for stage in running for channel in stage.consumes}
        self._payloads = payloads
        self._external = {stage.name for stage in stages if stage.external}
        self._consumed = {channel for _, channel in self._known}
        self._accept = accept
        self._stranded: Counter[tuple[str, str]] = Counter()
        self._unconsumed: Counter[str] = Counter()
        self._found = Findings()

    def take(self, waiting: WaitingEvent) -> None:
        """Count one event."""
        self._found.events += 1
        consumers = [stage for stage, channel in self.consumes.items() if channel == waiting.channel]
        if not consumers and (waiting.channel in self._consumed or not self._known):
            self._unconsumed[waiting.channel] += 1
        ours: list[str] = []
        for stage in waiting.stages:
            if stage == BROKER:
                ours += consumers
            elif stage in consumers:
                ours.append(stage)
            elif (stage, waiting.channel) in self._known or waiting.place != "journal":
                self._stranded[stage, waiting.channel] += 1
        ours = [stage for stage in ours if stage not in self._external]
        if ours and (faults := self._faults(waiting)):
            if any(f"{fault['field']}: {fault['fault']}" in waiting.reason for fault in faults):
                self._found.again += 1
            else:
                self._refuse(waiting, ours, faults)

    def _faults(self, waiting: WaitingEvent) -> list[dict[str, str]]:
        try:
            event = Event.from_json(waiting.event)
            payload = self._payloads.get(waiting.channel)
            if payload is not None:
                payload.model_validate(event.data)
        except EventError as fault:
            return [{"field": "event", "fault": str(fault)}]
        except ValidationError as fault:
            return faults_of(fault)
        except Exception as fault:  # noqa: BLE001 - the project's validators may raise anything
            return [{"field": "data", "fault": f"its class raises {type(fault).__name__}"}]
        return []

    def _refuse(self, waiting: WaitingEvent, stages: Iterable[str], faults: Sequence[Mapping[str, str]]) -> None:
        for stage in stages:
            for name in dict.fromkeys(fault["field"] for fault in faults):
                self._found.refused[stage, name] += 1
            if len(self._found.first) < SHOWN:
                fault = faults[0]
                self._found.first.append(
                    RefusedEvent(
                        stage,
                        waiting.place,
                        waiting.entry,
                        waiting.channel,
                        _id(waiting.event),
                        fault["field"],
                        masked(fault["fault"]),
                    )
                )

    def findings(self) -> Findings:
        """The result, when every event is counted."""
        found = self._found
        found.stages = [
            Stranded(stage, channel, "moved" if stage in self.consumes else "gone", events)
            for (stage, channel), events in sorted(self._stranded.items())
            if not {stage, channel} & set(self._accept)
        ]
        left = {channel for stage in self._running if stage.served for channel in stage.consumes}
        left |= self._unconsumed.keys()
        found.channels = {
            channel: self._unconsumed[channel]
            for channel in sorted(left - set(self.consumes.values()) - set(self._accept))
        }
        return found


def unordered(payloads: Mapping[str, type[Payload]], stages: Sequence[CheckedStage]) -> list[Unordered]:
    """Stages whose events would be delivered in no order, because no field of their data has the key's name."""
    found = []
    for stage in stages:
        for channel in Graph([stage]).consumes[stage.name]:
            if isinstance(stage.order, str) and channel in payloads:
                schema = payloads[channel].model_json_schema()
                if not schema.get("additionalProperties") and stage.order not in fields_of(schema):
                    found.append(Unordered(stage.name, channel, stage.order))
    return found


def incompatible(
    document: Mapping[str, Any], payloads: Iterable[type[Payload]], stages: Sequence[Wired]
) -> list[Incompatible]:
    """Payloads that take less than the running pipeline's AsyncAPI document says. Channels that go are left out."""
    ours = asyncapi.document(payloads, stages, {}, version="")
    comparison = Comparison(_schemas(document), _schemas(ours))
    consumed = {channel for names in Graph(stages).consumes.values() for channel in names}
    return [
        Incompatible(channel, narrowed.field, narrowed.fault)
        for channel in document.get("channels", {})
        if channel in consumed
        for narrowed in comparison.narrowed(_data(document, channel), _data(ours, channel))
    ]


def _schemas(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = document.get("components", {}).get("schemas", {})
    return found


def _data(document: Mapping[str, Any], channel: str) -> Any:
    """The schema of a channel's data; `true`, for any JSON, where the channel has no payload class."""
    messages = document["channels"].get(channel, {}).get("messages", {})
    for message in messages.values():
        for part in message.get("payload", {}).get("allOf", ()):
            if "data" in part.get("properties", {}):
                return part["properties"]["data"]
    return True


def _id(event: bytes) -> str:
    try:
        return Event.from_json(event).id
    except EventError:
        return ""
