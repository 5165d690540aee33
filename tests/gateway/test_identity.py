from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.payloads import Submission
from gateway import identity
from gateway.identity import canonical_id, traceparent
from gateway.models import is_key

KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)
SUBMISSIONS = st.builds(
    Submission,
    email=st.sampled_from(["ada@example.org", "bob@example.org"]),
    lat=st.floats(-90, 90),
    long=st.floats(-180, 180),
)


def identify(submission: Submission, key: str | None) -> str:
    return identity.identify(submission.model_dump(mode="json"), key)


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@given(SUBMISSIONS, KEYS)
def test_the_same_key_and_body_are_the_same_id(submission: Submission, key: str) -> None:
    again = Submission.model_validate_json(submission.model_dump_json())
    assert identify(submission, key) == identify(again, key)


@given(SUBMISSIONS, SUBMISSIONS, KEYS, KEYS)
def test_another_key_or_body_is_another_id(one: Submission, other: Submission, key: str, other_key: str) -> None:
    same = (repr(one), key) == (repr(other), other_key)
    assert (identify(one, key) == identify(other, other_key)) is same


@given(SUBMISSIONS, KEYS)
def test_the_id_is_a_uuid_of_version_8(submission: Submission, key: str) -> None:
    found = UUID(identify(submission, key))
    assert found.version == 8
    assert found.variant == RFC_4122
    assert canonical_id(str(found).upper()) == str(found)


@given(SUBMISSIONS)
def test_without_a_key_every_id_is_new(submission: Submission) -> None:
    one, other = identify(submission, None), identify(submission, None)
    assert one != other
    assert UUID(one).version == 7


@given(st.text())
def test_a_key_is_visible_ascii(key: str) -> None:
    assert is_key(key) is (1 <= len(key) <= 255 and all("!" <= letter <= "~" for letter in key))


def test_the_id_of_a_key_never_changes() -> None:
    submission = Submission(email="ada@example.org", lat=51.5074, long=-0.1278)
    assert identify(submission, "order-17") == "fc4f4477-89c6-8666-ac09-f0908dca3e72"


def test_zero_has_no_sign() -> None:
    for zero in (0, 0.0, -0.0, "-0", "-0.0", "+0"):
        submission = Submission.model_validate({"email": "ada@example.org", "lat": zero, "long": zero})
        assert identify(submission, "k") == identify(Submission(email="ada@example.org", lat=0.0, long=0.0), "k")
        assert "-0" not in submission.model_dump_json()


@pytest.mark.parametrize("sent", [TRACE, "cc" + TRACE[2:], "cc" + TRACE[2:] + "-what-comes-later"])
def test_a_valid_traceparent_is_kept(sent: str) -> None:
    assert traceparent([sent]) == {"traceparent": sent}


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [TRACE, TRACE],
        [""],
        ["ff" + TRACE[2:]],
        [TRACE.upper()],
        [TRACE + "-more"],
        [TRACE + "0"],
        [TRACE[:-1]],
        ["00-" + "0" * 32 + TRACE[35:]],
        [TRACE[:36] + "0" * 16 + "-01"],
        [TRACE + "\n"],
        ["cc" + TRACE[2:] + "-a\x00b"],
        ["cc" + TRACE[2:] + "-\x85"],
        ["cc" + TRACE[2:] + "-" + "a" * 5000],
    ],
)
def test_any_other_is_ignored(sent: list[str]) -> None:
    assert traceparent(sent) == {}


def test_id_of_a_part_is_a_uuid_with_places() -> None:
    whole = "0199a3c5-7d1e-7c4a-9f0e-2b5d8c6a4e11"
    for parts in ("", "/0", "/255", "/1/0/17"):
        assert canonical_id(whole.upper() + parts) == whole + parts
    for parts in ("/", "/-1", "/01", "/a", "/1000", "/0/", "//0", "/0/events", "/\u0663", "/0" * 120):
        assert canonical_id(whole + parts) is None
