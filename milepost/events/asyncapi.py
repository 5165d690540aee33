"""Describe the pipeline as an AsyncAPI 3.0 document: its channels, their payloads, who publishes and who consumes.

It is made from the payload classes and `stages:` in the values alone. AsyncAPI 3.0.0, sections "Channel Object",
"Operation Object" and "Message Object".
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic.json_schema import models_json_schema

from milepost.errors import ConfigurationError
from milepost.events.event import JSON_TYPE, STRUCTURED_TYPE
from milepost.events.examples import example
from milepost.events.payload import Payload
from milepost.graph import Graph, Wired, order_name

REF = "#/components/schemas/{model}"
EXAMPLE_ID = "0199a3c5-7d1e-7c4a-9f0e-2b5d8c6a4e11"
EXAMPLE_TIME = "2025-10-01T09:30:00.120000Z"

_TEXT = {"type": "string", "minLength": 1}
_CLOUD_EVENT = {
    "type": "object",
    "description": "A CloudEvent 1.0 in its JSON format.",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": _TEXT
        | {
            "maxLength": 256,
            "description": "of the submission: every event that follows from it has the same id, or as a part of it"
            " the id with /0, /1 and so on",
        },
        "source": _TEXT | {"maxLength": 1024, "format": "uri-reference", "description": "the sender"},
        "type": _TEXT | {"maxLength": 256, "description": "the name of its channel"},
        "time": {"type": "string", "format": "date-time", "description": "RFC 3339"},
        "datacontenttype": {"type": "string", "description": JSON_TYPE},
        "traceparent": {
            "type": "string",
            "description": "trace in which the submission was made (W3C Trace Context)",
        },
        "journalid": {
            "type": "string",
            "description": "the journal entry, in messages that Milepost publishes",
        },
    },
}


def payloads_of(module: object) -> list[type[Payload]]:
    """List the payload classes that a module defines, in its order."""
    return [
        found
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Payload) and "channel" in vars(found)
    ]


def document(
    payloads: Iterable[type[Payload]],
    stages: Iterable[Wired],
    doors: Mapping[str, str],
    *,
    version: str,
) -> dict[str, Any]:
    """Make the document. `doors`: name of a way in from outside → the channel that it publishes on.

    A channel without a payload class carries any JSON. A payload class from which no example can be made has none.
    """
    classes = {payload.channel: payload for payload in payloads}
    stages = list(stages)
    graph = Graph(stages)
    splits = {stage.name for stage in stages if getattr(stage, "split", False)}
    orders = {stage.name: order_name(getattr(stage, "order", False)) for stage in stages}
    channels = dict.fromkeys([*classes, *doors.values(), *graph.channels])
    emitters = {channel: door for door, channel in doors.items()}
    emitters |= {channel: stage for stage, emitted in graph.emits.items() for channel in emitted}
    _, schemas = models_json_schema([(payload, "validation") for payload in classes.values()], ref_template=REF)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Milepost",
            "version": version,
            "description": (
                "Redis channels. A message is a CloudEvent whose type is the name of its channel; a plain PUBLISH of"
                " the data alone becomes one."
            ),
        },
        "defaultContentType": STRUCTURED_TYPE,
        "servers": {
            "redis": {
                "host": "{host}:{port}",
                "protocol": "redis",
                "description": "The pipeline's Redis.",
                "variables": {"host": {"default": "127.0.0.1"}, "port": {"default": "6379"}},
            }
        },
        "channels": {channel: _channel(channel, classes.get(channel), emitters.get(channel)) for channel in channels},
        "operations": dict(_operations(graph, doors, splits, orders)),
        "components": {"schemas": {"CloudEvent": _CLOUD_EVENT, **schemas.get("$defs", {})}},
    }


def _channel(channel: str, payload: type[Payload] | None, emitter: str | None) -> dict[str, Any]:
    described = {"description": _summary(payload)} if payload else {}
    return {"address": channel, **described, "messages": {"event": _message(channel, payload, emitter)}}


def _message(channel: str, payload: type[Payload] | None, emitter: str | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": {"const": channel}}
    carried = {"data": {"$ref": REF.format(model=payload.__name__)}} if payload else {}
    message: dict[str, Any] = {
        "name": payload.__name__ if payload else channel,
        "title": payload.__name__ if payload else channel,
        "contentType": STRUCTURED_TYPE,
        "payload": {
            "allOf": [
                {"$ref": REF.format(model="CloudEvent")},
                {"type": "object", "required": list(carried), "properties": fields | carried},
            ]
        },
    }
    if payload:
        with suppress(ConfigurationError):  # a class whose rules need examples of its own
            message["examples"] = [{"name": "whole", "payload": _event(channel, payload, emitter)}]
    return message


def _event(channel: str, payload: type[Payload], emitter: str | None) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": EXAMPLE_ID,
        "source": f"/milepost/{emitter}" if emitter else "/me",
        "type": channel,
        "time": EXAMPLE_TIME,
        "datacontenttype": JSON_TYPE,
        "data": example(payload).model_dump(mode="json"),
    }


def reference(channel: str) -> dict[str, str]:
    """Refer to a channel by a JSON pointer (RFC 6901)."""
    return {"$ref": f"#/channels/{channel.replace('~', '~0').replace('/', '~1')}"}


def _operations(
    graph: Graph, doors: Mapping[str, str], splits: Collection[str], orders: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for door, channel in doors.items():
        yield f"{door}.send", _operation("send", door, channel, f"{door} publishes each event that it accepts.")
    for stage in graph.consumes:
        for channel in graph.consumes[stage]:
            ordered = f", one at a time and in order for each {orders[stage]}" if orders[stage] else ""
            yield f"{stage}.receive", _operation("receive", stage, channel, f"{stage} consumes it{ordered}.")
        emits = graph.emits[stage]
        for channel in emits:
            name = f"{stage}.send" if len(emits) == 1 else f"{stage}.send.{channel}"
            others = [other for other in emits if other != channel]
            instead = f", or with {' or '.join(others)}" if others else ""
            several = ", any number of times" if stage in splits else ""
            yield name, _operation("send", stage, channel, f"{stage} answers with it{instead}{several}.")


def _operation(action: str, who: str, channel: str, summary: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": reference(channel),
        "summary": summary,
        "tags": [{"name": who}],
        "messages": [{"$ref": f"{reference(channel)['$ref']}/messages/event"}],
    }


def _summary(payload: type[Payload]) -> str:
    return " ".join((payload.__doc__ or "").split())
