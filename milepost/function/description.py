"""Read from a function's annotations which channels its stage consumes and emits."""

import inspect
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin, get_type_hints

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
    emits: tuple[type[Payload], ...]
    """The classes of its return values. An answer is of one of them, and goes to that one's channel."""
    may_be_none: bool
    """Whether it may return None, and so emit nothing."""
    split: bool
    """Whether it returns several answers: a list, a tuple or an iterator of payloads, also an asynchronous one."""
    summary: str
    envelope: Envelope

    def as_json(self) -> dict[str, Any]:
        """Return name, channels and the JSON schemas of the payloads. `emits` is null, a channel, or a list of them."""
        emits = [payload.channel for payload in self.emits]
        return {
            "name": self.name,
            "summary": self.summary,
            "consumes": self.consumes.channel,
            "emits": emits if len(emits) > 1 else emits[0] if emits else None,
            **({"split": True} if self.split else {}),
            "schemas": {payload.channel: payload.model_json_schema() for payload in (self.consumes, *self.emits)},
        }


def describe(function: Callable[..., Any]) -> Description:
    """Read the annotations. Raises ConfigurationError, which names the one that is missing or wrong."""
    name = getattr(function, "__name__", repr(function))
    try:
        hints = get_type_hints(function)
        parameters = list(inspect.signature(function).parameters)
    except Exception as fault:
        # A class that is imported under TYPE_CHECKING alone, or an object that is no function.
        raise ConfigurationError(f"stage {name}: its annotations cannot be read: {fault}") from fault
    if not 1 <= len(parameters) <= 2:
        raise ConfigurationError(f"stage {name}: takes a payload, and as second parameter an Event or CloudEvent")
    consumes, emits = hints.get(parameters[0]), hints.get("return", inspect.Parameter.empty)
    if not _is_payload(consumes):
        raise ConfigurationError(f"stage {name}: annotate {parameters[0]} with a Payload that has a channel")
    several = _items(name, emits)
    classes, may_be_none = _classes(name, emits if several is None else several)
    if several is not None and (may_be_none or not classes):
        raise ConfigurationError(f"stage {name}: returns several payloads, so none of them can be None")
    envelope: Envelope = "none"
    if len(parameters) == 2:
        second = hints.get(parameters[1])
        if second is not Event and not _is_sdk_event(second):
            raise ConfigurationError(f"stage {name}: annotate {parameters[1]} with Event, or the SDK's CloudEvent")
        envelope = "event" if second is Event else "sdk"
    return Description(
        name=name.replace("_", "-"),
        consumes=consumes,
        emits=classes,
        may_be_none=may_be_none,
        split=several is not None,
        summary=inspect.getdoc(function) or "",
        envelope=envelope,
    )


def _items(name: str, annotation: Any) -> Any:
    """Return the annotation of each item where several payloads are returned, as in `list[Item]`. Else None."""
    members = [member for member in _members(annotation) if _is_several(member)]
    if not members:
        return None
    if len(_members(annotation)) > 1:
        raise ConfigurationError(
            f"stage {name}: returns either one payload or several; annotate the return value with {members[0]} alone, "
            "which may be empty"
        )
    arguments = [argument for argument in get_args(members[0]) if argument is not Ellipsis]
    if get_origin(members[0]) is not tuple or len(get_args(members[0])) - len(arguments) == 1:
        arguments = arguments[:1]  # a generator also has the types of its send() and its return
    if len(arguments) != 1:
        raise ConfigurationError(f"stage {name}: say which payloads {members[0]} has, as in list[Item]")
    return arguments[0]


def _is_several(member: Any) -> bool:
    kind = get_origin(member) or member
    return isinstance(kind, type) and issubclass(kind, Iterable | AsyncIterable) and not issubclass(kind, Payload)


def _classes(name: str, annotation: Any) -> tuple[tuple[type[Payload], ...], bool]:
    """Return the payload classes of a return value, each with a channel of its own, and whether it may be None."""
    members = list(dict.fromkeys(_members(annotation)))
    classes: dict[str, type[Payload]] = {}
    for member in members:
        if member is NoneType:
            continue
        if not _is_payload(member):
            named = getattr(member, "__name__", str(member)) if len(members) > 1 else "the return value"
            raise ConfigurationError(
                f"stage {name}: annotate the return value with a Payload that has a channel, with several of them "
                f"(A | B), or None; {named} has no channel"
            )
        if other := classes.get(member.channel):
            raise ConfigurationError(
                f"stage {name}: returns {other.__name__} and {member.__name__}, which both have the channel "
                f"{member.channel}: give one of them a channel of its own, or return only the more general one"
            )
        classes[member.channel] = member
    return tuple(classes.values()), NoneType in members


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union, also of one that has a name (`type Decision = Approved | Declined`)."""
    if hasattr(annotation, "__value__"):
        return _members(annotation.__value__)
    if get_origin(annotation) in {Union, UnionType}:
        return [member for one in get_args(annotation) for member in _members(one)]
    return [annotation]


def _is_payload(annotation: Any) -> TypeGuard[type[Payload]]:
    return isinstance(annotation, type) and issubclass(annotation, Payload) and hasattr(annotation, "channel")


def _is_sdk_event(annotation: Any) -> bool:
    """Whether it is `cloudevents.http.CloudEvent`. Compared by name, because importing the SDK takes time."""
    names = (getattr(annotation, "__module__", ""), getattr(annotation, "__qualname__", ""))
    return names == ("cloudevents.http.event", "CloudEvent")
