"""Read from a function's annotations which channels its stage consumes and emits."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, TypeGuard, get_type_hints

from milepost.errors import ConfigurationError
from milepost.events.event import Event
from milepost.events.payload import Payload

Envelope = Literal["none", "event", "sdk"]
"""Class of the function's second parameter: it has none, our Event, or the CloudEvents SDK's class."""


@dataclass(frozen=True)
class Description:
    """A stage as its annotations describe it; the answer to `GET /`."""

    name: str
    consumes: type[Payload]
    emits: type[Payload] | None
    summary: str
    envelope: Envelope

    def as_json(self) -> dict[str, Any]:
        """Return name, channels and the JSON schemas of both payloads."""
        payloads = [payload for payload in (self.consumes, self.emits) if payload is not None]
        return {
            "name": self.name,
            "summary": self.summary,
            "consumes": self.consumes.channel,
            "emits": self.emits.channel if self.emits else None,
            "schemas": {payload.channel: payload.model_json_schema() for payload in payloads},
        }


def describe(function: Callable[..., Any]) -> Description:
    """Read the annotations. Raises ConfigurationError, which names the one that is missing or wrong."""
    name = getattr(function, "__name__", repr(function))
    hints = get_type_hints(function)
    parameters = list(inspect.signature(function).parameters)
    if not 1 <= len(parameters) <= 2:
        raise ConfigurationError(f"stage {name}: takes a payload, and as second parameter an Event or CloudEvent")
    consumes, emits = hints.get(parameters[0]), hints.get("return", inspect.Parameter.empty)
    if not _is_payload(consumes):
        raise ConfigurationError(f"stage {name}: annotate {parameters[0]} with a Payload that has a channel")
    if emits is not NoneType and not _is_payload(emits):
        raise ConfigurationError(f"stage {name}: annotate the return value with a Payload that has a channel, or None")
    envelope: Envelope = "none"
    if len(parameters) == 2:
        second = hints.get(parameters[1])
        if second is not Event and not _is_sdk_event(second):
            raise ConfigurationError(f"stage {name}: annotate {parameters[1]} with Event, or the SDK's CloudEvent")
        envelope = "event" if second is Event else "sdk"
    return Description(
        name=name.replace("_", "-"),
        consumes=consumes,
        emits=emits if _is_payload(emits) else None,
        summary=inspect.getdoc(function) or "",
        envelope=envelope,
    )


def _is_payload(annotation: Any) -> TypeGuard[type[Payload]]:
    return isinstance(annotation, type) and issubclass(annotation, Payload) and hasattr(annotation, "channel")


def _is_sdk_event(annotation: Any) -> bool:
    """Whether it is `cloudevents.http.CloudEvent`. Compared by name, because importing the SDK takes time."""
    names = (getattr(annotation, "__module__", ""), getattr(annotation, "__qualname__", ""))
    return names == ("cloudevents.http.event", "CloudEvent")
