"""The AsyncAPI document: of this project, and of channels and payloads that are less ordinary."""

import copy
import json
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from jsonschema import Draft7Validator
from pydantic import Field, field_validator

from functions import payloads
from milepost import Payload, stage_values
from milepost.events import asyncapi
from milepost.events.event import Event
from milepost.stage_values import StageEntry
from tests.servers import ROOT

STAGES = stage_values.read(ROOT)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    classes = asyncapi.payloads_of(payloads)
    return asyncapi.document(classes, STAGES, {"gateway": "raw_input"}, version="1.2.3")


def found(document: dict[str, Any], pointer: str) -> Any:
    """Return the part of the document that a JSON pointer names. Raises KeyError."""
    value: Any = document
    for part in pointer.removeprefix("#/").split("/"):
        value = value[part.replace("~1", "/").replace("~0", "~")]
    return value


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def who(document: dict[str, Any], action: str) -> dict[str, set[str]]:
    """Channel → who does this on it."""
    made: dict[str, set[str]] = {}
    for operation in document["operations"].values():
        if operation["action"] == action:
            channel = found(document, operation["channel"]["$ref"])["address"]
            made.setdefault(channel, set()).add(operation["tags"][0]["name"])
    return made


@pytest.mark.parametrize(("order", "each"), [("customer", "customer"), (True, "partitionkey")])
def test_document_names_the_order_of_a_stage(order: str | bool, each: str) -> None:
    stages = [StageEntry(name="ship", consumes="item", order=order), StageEntry(name="log", consumes="item")]
    operations = asyncapi.document([], stages, {}, version="1")["operations"]
    summary = f"ship consumes it, one at a time and in order for each {each}."
    assert operations["ship.receive"]["summary"] == summary
    assert operations["log.receive"]["summary"] == "log consumes it."


def test_the_document_is_valid_asyncapi(document: dict[str, Any]) -> None:
    assert json.loads(json.dumps(document)) == document
    assert document["asyncapi"] == "3.0.0"
    assert document["info"].keys() >= {"title", "version"}
    assert document["info"]["version"] == "1.2.3"
    assert all(server.keys() >= {"host", "protocol"} for server in document["servers"].values())
    for operation in document["operations"].values():
        assert operation["action"] in {"send", "receive"}
        assert operation["messages"] == [{"$ref": f"{operation['channel']['$ref']}/messages/event"}]


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    every = set(references(document))
    assert len(every) > 10
    for reference in every:
        assert found(document, reference)


def test_channels_publishers_and_consumers_are_those_of_the_table(document: dict[str, Any]) -> None:
    consumed = {entry.consumes: {one.name for one in STAGES if one.consumes == entry.consumes} for entry in STAGES}
    emitted = {channel: {entry.name} for entry in STAGES for channel in entry.emits}
    assert who(document, "receive") == consumed
    assert who(document, "send") == {"raw_input": {"gateway"}} | emitted
    assert set(document["channels"]) == {*consumed, *emitted, "raw_input"}
    assert all(channel["address"] == name for name, channel in document["channels"].items())


@pytest.mark.parametrize("payload", asyncapi.payloads_of(payloads), ids=lambda payload: payload.channel)
def test_each_channel_has_its_payload_and_an_example_that_fits(
    document: dict[str, Any], payload: type[Payload]
) -> None:
    message = document["channels"][payload.channel]["messages"]["event"]
    assert message["name"] == payload.__name__
    schema = {**message["payload"], "components": document["components"]}
    Draft7Validator.check_schema(schema)
    validator = Draft7Validator(schema)
    (example,) = message["examples"]
    validator.validate(example["payload"])
    assert Event.from_fields(example["payload"]).type == payload.channel
    payload.model_validate(example["payload"]["data"])
    for name, wrong in (("type", "another"), ("data", {"nothing": "known"}), ("id", "")):
        broken = copy.deepcopy(example["payload"])
        broken[name] = wrong
        assert not validator.is_valid(broken), name


def test_channels_with_slashes_and_without_a_payload_class_are_described() -> None:
    stages = [StageEntry(name="one", consumes="a/b~c", emits=("d",)), StageEntry(name="two", consumes="d")]
    document = asyncapi.document([], stages, {}, version="1")
    for reference in references(document):
        assert found(document, reference)
    assert who(document, "receive") == {"a/b~c": {"one"}, "d": {"two"}}
    message = document["channels"]["a/b~c"]["messages"]["event"]
    Draft7Validator({**message["payload"], "components": document["components"]}).validate(
        {"specversion": "1.0", "id": "1", "source": "/x", "type": "a/b~c", "data": [1]}
    )


def test_a_payload_class_without_a_possible_example_is_described_without_one() -> None:
    class Plate(Payload, channel="plates"):
        text: Annotated[str, Field(pattern="^[A-Z]{2}-[0-9]{4}$")]

    document = asyncapi.document([Plate], [], {}, version="1")
    assert "examples" not in document["channels"]["plates"]["messages"]["event"]
    assert "Plate" in document["components"]["schemas"]


class Folder(Payload, channel="folders"):
    folders: list["Folder"]


class Unruly(Payload, channel="unruly"):
    name: str

    @field_validator("name")
    @classmethod
    def _raise(cls, name: str) -> str:
        raise KeyError(name)


def test_class_that_refers_to_itself_or_raises_is_described_without_an_example() -> None:
    document = asyncapi.document([Folder, Unruly], [], {}, version="1")
    for channel in ("folders", "unruly"):
        assert "examples" not in document["channels"][channel]["messages"]["event"]
