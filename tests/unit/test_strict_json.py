import math
from typing import Any

import pytest
from hypothesis import given

from milepost.events.strict_json import dumps, loads
from tests.unit.strategies import json_values

BOM = b"\xef\xbb\xbf"


def test_a_second_byte_order_mark_is_not_json() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        loads(BOM + BOM + b"1")


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e400", "[-1e999]", "01", "1_0", "'a'", b"\xff", b'"\xc3"'])
def test_loads_is_strict(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(text)


def test_loads_is_utf8_only() -> None:
    with pytest.raises(ValueError, match=r"."):
        loads("[1]".encode("utf-16"))


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_nested_json_that_was_read_can_be_written(opening: str) -> None:
    closing = "".join({"[": "]", "{": "}"}[character] for character in reversed(opening) if character in "[{")
    for levels in (1, 50, 99, 100, 101, 199, 200, 201, 300, 400, 490, 495, 900, 950, 1000, 5000, 100_000):
        text = opening * levels + "1" + closing * levels
        try:
            value = loads(text)
        except ValueError:
            assert levels > 99
        else:
            assert loads(dumps(value)) == value
            assert levels <= 200


@given(json_values)
def test_dumps_and_loads(value: Any) -> None:
    text = dumps(value)
    assert text.isascii()
    assert "\n" not in text
    assert loads(text) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_dumps_writes_no_nan(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        dumps(value)
