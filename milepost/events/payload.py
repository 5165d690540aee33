"""The typed data of an event: one payload class per channel, so that annotations are wiring."""

import math
import re
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, RootModel

from milepost.errors import ConfigurationError

_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)
_CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}", re.ASCII)


def number(value: Any) -> float:
    """A finite JSON number, or a plain decimal string as an HTML form sends it. Zero has no sign: -0.0 is 0.0, and so
    one place is one body.

    Raises ValueError for booleans, NaN, infinities, exponents in strings, and everything else.
    """
    if isinstance(value, str) and _DECIMAL.fullmatch(value) and len(value) <= 64:
        value = float(value)
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
"""Reads a float by `number`. Last in `Annotated[float, Field(ge=0), IsNumber]`, it leaves the schema its bounds."""

Number = Annotated[float, IsNumber]


class Payload(BaseModel):
    """Base of every payload class: `class Place(Payload, channel="place"): ...`.

    What a class does not name is ignored when read, so that a producer may add fields first.
    Raises ConfigurationError, when the class is made, for a channel name that cannot be carried.
    """

    model_config = ConfigDict(frozen=True)

    channel: ClassVar[str]

    def __init_subclass__(cls, *, channel: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if channel is None:
            return
        if not _CHANNEL.fullmatch(channel):
            raise ConfigurationError(f"{cls.__name__}: {channel!r} cannot be the name of a channel")
        cls.channel = channel


Root = TypeVar("Root")


class RootPayload(RootModel[Root], Payload):
    """A payload that is one bare JSON value: `class Recipient(RootPayload[Address], channel="user:email")`."""
