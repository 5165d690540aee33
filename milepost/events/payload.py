"""Payload classes: the type of the data on each channel. A stage names its channels by annotating with them."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, RootModel, ValidationError

from milepost.errors import ConfigurationError
from milepost.events.attributes import RESERVED

MINUS = r"\u002d\u2212\u2010-\u2013\ufe63\uff0d"
"""The minus signs of a number in text: a regular expression's character class. Programs and pages also print the true
minus U+2212, dashes and wide forms; gateway/static/milepost.js has the same class.
"""

AROUND = r"\t \u00a0\u2000-\u200b\u202f\u205f\u2060\u3000\ufeff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Characters that may stand around a number in text and before its digits: blanks, no-break spaces, direction marks."""

_DECIMAL = re.compile(rf"[{AROUND}]*([+{MINUS}]?)[{AROUND}]*(\d+(?:\.\d*)?|\.\d+)[{AROUND}]*", re.ASCII)
_LONGEST_DECIMAL = 64
_CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}", re.ASCII)


def number(value: Any) -> float:
    """Read a finite JSON number, or a plain decimal as an HTML form sends it or a person pastes it: with a true minus
    sign (U+2212), no-break spaces or direction marks. Zero has no sign: -0.0 is 0.0, so one place is one body.

    Raises ValueError for anything else: booleans, NaN, infinities, exponents in strings.
    """
    if isinstance(value, str) and len(value) <= _LONGEST_DECIMAL and (found := _DECIMAL.fullmatch(value)):
        sign, digits = found.groups()
        value = float(digits) if sign in {"", "+"} else -float(digits)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic reports ValueError
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return float(value) + 0.0


IsNumber = BeforeValidator(number)
"""Reads a float by `number`. Last in `Annotated[float, Field(ge=0), IsNumber]`, so that the schema keeps the bounds."""

Number = Annotated[float, IsNumber]


class Payload(BaseModel):
    """Base of every payload class: `class Place(Payload, channel="place"): ...`.

    Fields that a class does not name are ignored when read, so a producer may add a field before its consumers know it.
    Raises ConfigurationError, when the class is made, for an illegal channel name.
    """

    model_config = ConfigDict(frozen=True)

    channel: ClassVar[str]

    def __init_subclass__(cls, *, channel: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if channel is None:
            return
        if not _CHANNEL.fullmatch(channel) or channel.startswith(RESERVED):
            raise ConfigurationError(f"{cls.__name__}: {channel!r} cannot be the name of a channel")
        cls.channel = channel


Root = TypeVar("Root")


class RootPayload(RootModel[Root], Payload):
    """A payload that is one bare JSON value: `class Recipient(RootPayload[Address], channel="user:email")`."""


def faults_of(refusal: ValidationError) -> list[dict[str, str]]:
    """Name each field that a payload class refused, and its fault, without the value."""
    return [
        {"field": ".".join(map(str, error["loc"])) or "data", "fault": error["msg"].removeprefix("Value error, ")}
        for error in refusal.errors(include_url=False, include_context=False, include_input=False)
    ]


def fields_of(schema: Mapping[str, Any], definitions: Mapping[str, Any] | None = None) -> list[str]:
    """Return the names of the fields that an object of this JSON schema may have."""
    definitions = definitions or schema.get("$defs", {})
    if "$ref" in schema:
        return fields_of(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    choices = [one for word in ("anyOf", "oneOf", "allOf") for one in schema.get(word, ())]
    return [*schema.get("properties", {}), *(name for one in choices for name in fields_of(one, definitions))]
