"""What a checkout would break in a running pipeline: seeded changes are found, and compatible ones are not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from pydantic import Field
from redis.asyncio import Redis

from milepost import Payload
from milepost.check import document
from milepost.check.findings import SHOWN, Findings, check
from milepost.errors import ConfigurationError, MilepostError
from milepost.events import asyncapi
from milepost.events.event import Event
from milepost.graph import Node, WiredStage
from milepost.journal import Bury, Complete, Consumer, Failure, Journal, Park, Wiring, keys
from milepost.journal.connection import connect
from milepost.journal.shared_connection import SharedConnection
from milepost.settings import JournalSettings
from tests.journal.events import everything, maintenance_of

PLACE = {"name": "Tower Bridge", "lat": 51.5, "tags": ["bridge"]}


class Place(Payload, channel="place"):
    name: str
    lat: float
    tags: list[str] = Field(default_factory=list)


class Named(Payload, channel="named"):
    name: str


RUNNING = {"name-it": WiredStage(name="name-it", consumes="place", emits="named")}
SAME = list(RUNNING.values())


class SameWithMore(Place, channel="place"):
    country: str | None = None
    lat: float | str  # type: ignore[assignment]


class FewerFields(Payload, channel="place"):
    name: str


class FieldRequired(Place, channel="place"):
    country: str


class TypeNarrowed(Place, channel="place"):
    name: int  # type: ignore[assignment]


class BoundTightened(Place, channel="place"):
    lat: Annotated[float, Field(le=45)]


class ValuesChosen(Place, channel="place"):
    tags: list[Literal["tower", "house"]]  # type: ignore[assignment]


class PlaceRenamed(Payload, channel="place:v2"):
    name: str


Seen = tuple[set[tuple[str, str, int]], set[tuple[str, str]], dict[str, int], set[tuple[str, str, int]]]
"""(stage, field, events) refused; (channel, field) incompatible; channels; (stage, channel, events) stranded."""


@dataclass
class Change:
    payload: type[Payload]
    stages: Sequence[WiredStage] = field(default_factory=lambda: SAME)
    refused: set[tuple[str, str, int]] = field(default_factory=set)
    schemas: set[tuple[str, str]] = field(default_factory=set)
    channels: dict[str, int] = field(default_factory=dict)
    stranded: set[tuple[str, str, int]] = field(default_factory=set)
    accept: Sequence[str] = ()

    def found(self) -> Seen:
        return self.refused, self.schemas, self.channels, self.stranded


def moved(consumes: str) -> list[WiredStage]:
    return [WiredStage(name="name-it", consumes=consumes, emits="named")]


ADDED = WiredStage(name="count", consumes="place")
OTHER = [WiredStage(name="tell", consumes="named")]

CHANGES = {
    "nothing": Change(Place),
    "an optional field and a wider type": Change(SameWithMore),
    "a field that is read no more": Change(FewerFields),
    "a stage more on the channel": Change(Place, [*SAME, ADDED]),
    "a receiver of someone else's": Change(
        FieldRequired,
        [WiredStage(name="name-it", consumes="place", emits="named", external=True)],
        schemas={("place", "country")},
    ),
    "a field required": Change(FieldRequired, refused={("name-it", "country", 4)}, schemas={("place", "country")}),
    "a type narrowed": Change(TypeNarrowed, refused={("name-it", "name", 4)}, schemas={("place", "name")}),
    "a bound tightened": Change(BoundTightened, refused={("name-it", "lat", 4)}, schemas={("place", "lat")}),
    "values chosen": Change(
        ValuesChosen, refused={("name-it", "tags.0", 4)}, schemas={("place", "tags"), ("place", "tags.*")}
    ),
    "a field required by a stage that is added": Change(
        FieldRequired,
        [*SAME, ADDED],
        refused={("name-it", "country", 4), ("count", "country", 2)},
        schemas={("place", "country")},
    ),
    "a channel renamed": Change(
        PlaceRenamed, moved("place:v2"), channels={"place": 5}, stranded={("name-it", "place", 5)}
    ),
    "a stage removed": Change(Place, OTHER, channels={"place": 5}, stranded={("name-it", "place", 5)}),
    "a stage removed, as is meant": Change(Place, OTHER, accept=["name-it", "place"]),
    "a stage renamed": Change(Place, [ADDED], stranded={("name-it", "place", 5)}),
}


@pytest.fixture
async def journal(redis: Redis, redis_url: str) -> AsyncIterator[Journal]:
    """One event unread, one pending, one parked, two dead letters. Their stage refuses one of the letters already."""
    del redis  # which has emptied the server
    settings = JournalSettings.read(redis_url=redis_url)
    journal = Journal(connect(settings), settings)
    reader = SharedConnection(connect(settings, answer_within=30), again=False)
    consumer = Consumer(
        "name-it", "place", "bridge", reader=reader, scripts=journal.scripts, deadline=settings.deadline
    )
    maintenance = maintenance_of(journal, settings)
    await maintenance.beat({"name-it": Wiring(["place"], ["named"], "http://name-it")})
    await consumer.ensure()
    for number, data in enumerate((PLACE, {}, PLACE, PLACE, PLACE, PLACE)):
        await journal.publish(Event(id=str(number), source="/me", type="place", data=data))
    dead, refused, parked, done, _ = await consumer.take(5)
    steps = [
        Bury(dead, "0", Failure("HTTP 500", 500, 1, 0)),
        Bury(refused, "1", Failure("HTTP 422: name: Field required", 422, 0, 0)),
        Park(parked, "2", Failure("HTTP 500", 500, 1, 0), 60),
        Complete(done, "3", None),
    ]
    assert set(await consumer.settle(steps)) <= {"done", "buried"}
    await maintenance.trim("place")
    yield journal
    await reader.close()
    await journal.close()


async def findings(journal: Journal, change: Change) -> Findings:
    document = asyncapi.document([Place, Named], [Node("name-it", "place", "named")], {}, version="1")
    running = await journal.admin.stages()
    payloads = {change.payload.channel: change.payload, "named": Named}
    return await check(journal.redis, running, payloads, change.stages, document=document, accept=change.accept)


async def test_breaking_changes_are_found_and_compatible_ones_are_not(journal: Journal, redis: Redis) -> None:
    before = await everything(redis)
    for name, change in CHANGES.items():
        found = await findings(journal, change)
        seen = (
            {(stage, field, events) for (stage, field), events in found.refused.items()},
            {(one.channel, one.field) for one in found.schemas or ()},
            found.channels,
            {(one.stage, one.channel, one.events) for one in found.stages},
        )
        assert seen == change.found(), name
        assert found.breaks == any(change.found()), name
        assert found.events == 5, name
        assert bool(found.lines()) == found.breaks, name
    assert await everything(redis) == before, "it changes nothing"


async def test_refused_events_are_shown_with_their_place(journal: Journal) -> None:
    found = await findings(journal, CHANGES["a field required"])
    assert {(one.place, one.id) for one in found.first} == {
        ("dead", "0"),
        ("parked", "2"),
        ("journal", "4"),
        ("journal", "5"),
    }
    assert found.again == 1, "a dead letter that is refused today is no fault of the change"
    assert {one.fault for one in found.first} == {"Field required"}


async def test_ten_refused_events_of_many_are_shown(journal: Journal) -> None:
    events = [Event(id=f"more-{number}", source="/me", type="place", data=PLACE) for number in range(600)]
    await asyncio.gather(*map(journal.publish, events))
    found = await findings(journal, CHANGES["a field required"])
    assert found.refused == {("name-it", "country"): 604}
    assert len(found.first) == SHOWN


async def test_events_that_a_stage_has_left_behind_already_are_no_finding(journal: Journal, redis: Redis) -> None:
    """No bridge reads them in the running pipeline either."""
    await redis.xgroup_create("{milepost}:journal:old", "name-it", "0", mkstream=True)
    await journal.publish(Event(id="left", source="/me", type="old", data=PLACE))
    assert [depth.stage for depth in await journal.admin.left_behind()] == ["name-it:old"]
    found = await findings(journal, CHANGES["an optional field and a wider type"])
    assert not found.breaks, found.lines()


async def test_order_by_a_field_that_the_data_does_not_have_is_found(journal: Journal) -> None:
    """Its events would have no key, and so no order."""
    ordered = [WiredStage(name="name-it", consumes="place", emits="named", order="country")]
    found = await findings(journal, Change(Place, ordered))
    assert found.breaks
    assert found.lines() == ["stage name-it would be ordered by country, which the payload of place does not have"]
    for kept in (Change(SameWithMore, ordered), Change(Place, ordered, accept=["name-it"])):
        assert not (await findings(journal, kept)).breaks


async def test_names_and_keys_of_other_programs_are_left_out(journal: Journal, redis: Redis) -> None:
    await redis.set(keys.held("name-it", "place"), "a string")
    await redis.delete(keys.parked("name-it"))
    await redis.set(keys.parked("name-it"), "a string")
    await redis.sadd(keys.JOURNALS, b"\xff")
    await redis.sadd(keys.DEAD, b"\xff")
    assert (await findings(journal, Change(Place))).events == 4


@pytest.mark.parametrize(
    ("gateway", "fault"),
    [
        ("http://me:secret@127.0.0.1:1", document.NoDocument),
        ("http://me:secret/word@127.0.0.1:1", ConfigurationError),
        ("http://me:12/secret@127.0.0.1:1", ConfigurationError),
        ("here:8000", ConfigurationError),
    ],
)
async def test_gateway_that_does_not_answer_is_named_without_its_password(
    gateway: str, fault: type[MilepostError]
) -> None:
    with pytest.raises(fault) as caught:
        await document.fetch(gateway)
    assert "secret" not in str(caught.value)
    assert gateway.rpartition("@")[2] in str(caught.value)
