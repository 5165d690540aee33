"""Payload classes: the type of the data on each channel. A stage names its channels by annotating with them."""

import math
import re
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, RootModel

from milepost.errors import ConfigurationError

_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)
_CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}", re.ASCII)


def number(value: Any) -> float:
    """Read a finite JSON number, or a plain decimal string as an HTML form sends it. Zero loses its sign: the same
    place, written with 0.0 or with -0.0, is the same submission.

    Raises ValueError for anything else: booleans, NaN, infinities, exponents in strings.
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
        if not _CHANNEL.fullmatch(channel):
            raise ConfigurationError(f"{cls.__name__}: {channel!r} cannot be the name of a channel")
        cls.channel = channel


Root = TypeVar("Root")


class RootPayload(RootModel[Root], Payload):
    """A payload that is one bare JSON value: `class Recipient(RootPayload[Address], channel="user:email")`."""
