import json
import math
import re
from typing import Any

import pytest
from email_validator import (
    SPECIAL_USE_DOMAIN_NAMES,
    EmailNotValidError,
    validate_email,
)
from email_validator.rfc_constants import CASE_INSENSITIVE_MAILBOX_NAMES
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from functions.payloads import PLAIN, CalculatedDistance, EmailSent, Recipient, Submission, is_plain
from milepost import Payload
from milepost.errors import ConfigurationError
from milepost.events.payload import number

ADDRESS = "ada@example.org"

addresses = st.from_regex(
    r"[a-z0-9]([a-z0-9+_-]{0,20}[a-z0-9])?@[a-z][a-z0-9]{0,10}(-[a-z0-9]{1,10})?\.(org|co\.uk)", fullmatch=True
)
submissions = st.builds(Submission, email=addresses, lat=st.floats(-90, 90), long=st.floats(-180, 180))
distances = st.builds(CalculatedDistance, email=addresses, distance_from_velocity=st.floats(0, 1e308))
sent = st.builds(EmailSent, email=addresses, distance_from_velocity=st.floats(0, 1e308), message=st.text())
recipients = addresses.map(Recipient)


@given(submissions | distances | sent | recipients)
def test_json_and_back(payload: Payload) -> None:
    text = json.dumps(payload.model_dump(mode="json"))
    assert type(payload).model_validate(json.loads(text)) == payload


@given(st.floats(-90, 90))
def test_a_number_keeps_every_digit(lat: float) -> None:
    read = Submission(email=ADDRESS, lat=lat, long=0).lat
    assert read == lat
    assert math.copysign(1, read) == math.copysign(1, lat) or (lat == 0 and str(read) == "0.0")


@given(st.decimals(-90, 90, places=15))
def test_a_decimal_string_is_that_number(lat: Any) -> None:
    assert Submission.model_validate({"email": ADDRESS, "lat": f"{lat:f}", "long": "0"}).lat == float(lat)


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("-.5", -0.5), ("+2.", 2), ("007", 7), (3, 3), (-0.0, 0)])
def test_numbers(text: Any, value: float) -> None:
    assert Submission.model_validate({"email": ADDRESS, "lat": text, "long": 0}).lat == value


MARKS = "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
BLANKS = " \t\u00a0\u2007\u2009\u202f\u2060\u200b\u3000\ufeff"


@pytest.mark.parametrize("minus", [*"-\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d"], ids=ascii)
def test_a_number_may_be_pasted_with_any_minus_sign(minus: str) -> None:
    assert number(f"{minus}0.1278") == -0.1278
    assert number(f"\u200e{minus}\u00a00.1278") == -0.1278
    assert str(number(f"{minus}0")) == "0.0"


@pytest.mark.parametrize("mark", [*MARKS, *BLANKS], ids=ascii)
def test_blanks_and_direction_marks_around_a_number_are_not_part_of_it(mark: str) -> None:
    for text in (f"{mark}51.5074", f"51.5074{mark}", f"{mark}{mark}51.5074{mark}", f"+{mark}51.5074"):
        assert Submission.model_validate({"email": ADDRESS, "lat": text, "long": 0}).lat == 51.5074


TEXTS = [
    "nan",
    "inf",
    "-Infinity",
    "1e1",
    "1_0",
    "0x1",
    "",
    " ",
    "1\n",
    "1 2",
    "1 -",
    "--1",
    "\u2212",
    "\u2212-1",
    "1\u2212",
    "\u200e",
    "1\u200e.5",
    "\uff11",
    "\u00ad1",
    "one",
    "\u0661",
    "1,5",
    "9" * 65,
    "90.1",
]
OTHERS = [True, False, None, [], {}, [1], {"$gt": 0}, math.nan, math.inf, 10**400, 90.0000001, -91, b"1"]


@pytest.mark.parametrize("value", [*TEXTS, *OTHERS])
def test_an_illegal_latitude_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError) as fault:
        Submission.model_validate({"email": ADDRESS, "lat": value, "long": 0})
    assert [error["loc"] for error in fault.value.errors()] == [("lat",)]


@pytest.mark.parametrize("value", ["180.0001", -181, True, "x"])
def test_an_illegal_longitude_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        Submission.model_validate({"email": ADDRESS, "lat": 0, "long": value})


@pytest.mark.parametrize("edge", [(90, 180), (-90, -180), ("90", "-180.0")])
def test_poles_and_the_date_line_are_places(edge: tuple[Any, Any]) -> None:
    Submission.model_validate({"email": ADDRESS, "lat": edge[0], "long": edge[1]})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("ada@EXAMPLE.org", "ada@example.org"),
        ("Ada.L+x@example.org", "Ada.L+x@example.org"),
        ("$where@example.org", "$where@example.org"),
        ("o'hara@example.co.uk", "o'hara@example.co.uk"),
    ],
)
def test_addresses(text: str, kept: str) -> None:
    assert Recipient(text).root == kept


@pytest.mark.parametrize(
    "value",
    [
        *("", "ada", "@example.org", "ada@", "ada@localhost", "a b@example.org", ".ada@example.org", "a@b@example.org"),
        *("ada@example.org\n", "\nada@example.org", "ada@example.org\r\nBcc: eve@example.org", "ada@exa\nmple.org"),
        *("Ada <ada@example.org>", "ada@example.org,eve@example.org", "ada@[127.0.0.1]", "ada@\x00.org"),
        *("a" * 300 + "@example.org", "a" * 65 + "@example.org", "ada@-example.org", "ada@example..org"),
        *("\ud800@example.org", None, 7, True, [ADDRESS], {"$ne": ""}, {"email": ADDRESS}),
    ],
)
def test_an_illegal_address_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        Recipient.model_validate(value)


@given(st.text(max_size=60))
def test_no_text_that_is_an_address_breaks_a_line_or_a_header(text: str) -> None:
    for candidate in (text, f"{text}@example.org", f"ada@{text}.org"):
        try:
            address = Recipient(candidate).root
        except ValidationError:
            continue
        assert address.isprintable()
        assert not re.search(r"[\s<>,;:\"\\]", address)


def test_unknown_fields_are_ignored() -> None:
    assert Submission.model_validate({"email": ADDRESS, "lat": 0, "long": 0, "later": 1}).lat == 0


def test_a_payload_is_frozen() -> None:
    submission = Submission(email=ADDRESS, lat=0, long=0)
    with pytest.raises(ValidationError):
        submission.lat = 1  # type: ignore[misc]


@pytest.mark.parametrize("channel", ["", "a b", "a\n", "{x}", "-a", "x" * 201, "é", "dead:x", "parts:x", "ended:x"])
def test_an_illegal_channel_is_refused_when_the_class_is_made(channel: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name of a channel"):
        type("Bad", (Payload,), {}, channel=channel)


def test_the_schemas_name_units() -> None:
    lat = Submission.model_json_schema()["properties"]["lat"]
    assert (lat["type"], lat["description"]) == ("number", "degrees north")


def as_the_library_has_it(text: str) -> str | None:
    try:
        return validate_email(text, check_deliverability=False, globally_deliverable=False, strict=True).normalized
    except EmailNotValidError:
        return None


@given(st.from_regex(PLAIN, fullmatch=True))
def test_the_library_says_the_same_of_plain_addresses(text: str) -> None:
    if is_plain(text):
        assert as_the_library_has_it(text) == Recipient(text).root == text


@pytest.mark.parametrize("local", ["ada", "Ada", *CASE_INSENSITIVE_MAILBOX_NAMES, "Info"])
@pytest.mark.parametrize("domain", [*SPECIAL_USE_DOMAIN_NAMES, "example.org", "LOCAL"])
def test_domains_with_rules_of_their_own_go_to_the_library(local: str, domain: str) -> None:
    for text in (f"{local}@x.{domain}", f"{local.capitalize()}@{domain}", f"{local}@{domain}"):
        expected = as_the_library_has_it(text)
        if expected is None or "." not in expected.partition("@")[2]:
            with pytest.raises(ValidationError):
                Recipient(text)
        else:
            assert Recipient(text).root == expected


@pytest.mark.parametrize("long", [f"{'a' * 65}@example.org", f"{'a' * 60}@{'.'.join(['b' * 30] * 8)}.org"])
def test_a_plain_address_that_is_too_long_is_refused(long: str) -> None:
    with pytest.raises(ValidationError):
        Recipient(long)
