"""The payloads of the pipeline: one class for each channel, read by the functions and the gateway."""

import re
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, Field

from milepost import IsNumber, Payload, RootPayload

PLAIN = re.compile(r"[a-z0-9]+([._+-][a-z0-9]+)*@([a-z0-9]{1,30}(-[a-z0-9]{1,30})?\.)+[a-z]{2,30}", re.ASCII)
"""The form of nearly every address. If it is short and its domain is not for special use, it is valid and needs no
change. email-validator decides the same (a test compares), but takes 27 µs in every stage, and 20 ms of each start.
"""
PLAIN_LOCAL, PLAIN_WHOLE = 64, 200
"""Most characters before the @-sign, and in all."""

SPECIAL = ("arpa", "invalid", "local", "localhost", "onion", "test")
"""Domains for special use, as email-validator lists them (a test compares)."""

_SPECIAL = tuple(f"{before}{name}" for name in SPECIAL for before in ".@")


def is_plain(value: str) -> bool:
    """Whether the text is a valid address without a look at the whole syntax."""
    short = len(value) <= PLAIN_WHOLE and value.find("@") <= PLAIN_LOCAL
    return short and PLAIN.fullmatch(value) is not None and not value.endswith(_SPECIAL)


@lru_cache(maxsize=1024)  # a stage reads the same address in its event and in its answer
def address(value: str) -> str:
    """Check the syntax of an address that SMTP can carry, and write its domain in lower case. Raises ValueError."""
    if is_plain(value):
        return value
    from email_validator import EmailNotValidError, validate_email

    try:
        found = validate_email(value, check_deliverability=False, globally_deliverable=False, strict=True)
    except EmailNotValidError as fault:
        raise ValueError(str(fault)) from None
    if "." not in found.domain:
        raise ValueError("the part after the @-sign must have a dot, as in example.org")
    return found.normalized


OFFICE = (32.080058, 34.864535)
"""Velocity: degrees north, degrees east."""

Address = Annotated[str, Field(max_length=254, examples=["ada@example.org"]), AfterValidator(address)]
Latitude = Annotated[float, Field(ge=-90, le=90, description="degrees north", examples=[51.5074]), IsNumber]
Longitude = Annotated[float, Field(ge=-180, le=180, description="degrees east", examples=[-0.1278]), IsNumber]
Miles = Annotated[float, Field(ge=0, description="statute miles", examples=[2216.0742916592476]), IsNumber]


class Submission(Payload, channel="raw_input"):
    """A visitor's address for the answer, and a place."""

    email: Address
    lat: Latitude
    long: Longitude


class CalculatedDistance(Payload, channel="calculated_distance"):
    """How far the submitted place is from the office."""

    email: Address
    distance_from_velocity: Miles


class Recipient(RootPayload[Address], channel="user:email"):
    """The address of a person whose distance is stored, for the mail to this person."""


class EmailSent(Payload, channel="email:sent"):
    """The e-mail that went out."""

    email: Address
    distance_from_velocity: Miles
    message: Annotated[str, Field(examples=["You are 2216.0742916592476 miles from Velocity."])]
