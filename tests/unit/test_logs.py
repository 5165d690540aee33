"""The lines of the log, by text and by JSON."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from milepost.errors import ConfigurationError
from milepost.observe.logs import Fields, JsonLine, TextLine, about, configure, masked


def record(message: object, *arguments: Any, level: int = logging.WARNING, broken: bool = False) -> logging.LogRecord:
    error = None
    if broken:
        try:
            float("ada@example.org")
        except ValueError:
            error = sys.exc_info()
    made = logging.LogRecord("milepost.store", level, __file__, 1, message, arguments, error)
    made.created = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC).timestamp()
    return made


def in_json(message: object, *arguments: Any, level: int = logging.WARNING, broken: bool = False) -> dict[str, Any]:
    text = JsonLine().format(record(message, *arguments, level=level, broken=broken))
    assert "\n" not in text
    line: dict[str, Any] = json.loads(text)
    assert [line.pop(name) for name in ("time", "logger")] == ["2026-01-02T03:04:05.678Z", "milepost.store"]
    assert next(iter(line)) == "level"
    return line


def in_text(message: object, *arguments: Any, level: int = logging.WARNING, broken: bool = False) -> str:
    time, _, rest = TextLine().format(record(message, *arguments, level=level, broken=broken)).partition(" ")
    assert len(time) == len("03:04:05")
    return rest


def test_fields_are_fields() -> None:
    fields = Fields(stage="store", id="7", outcome="not marked", status=None, tries=3)
    assert in_text(fields) == "WARNING milepost.store stage=store id=7 outcome='not marked' status=None tries=3"
    assert in_json(fields) == {"level": "WARNING", **fields}


def test_any_other_message_is_the_message() -> None:
    assert in_text("%d of %s", 1, "two") == "WARNING milepost.store 1 of two"
    assert in_json("%d of %s", 1, "two") == {"level": "WARNING", "message": "1 of two"}


def test_lines_have_the_fields_of_the_event_that_is_handled() -> None:
    token = about.set({"stage": "store", "channel": "in", "id": "7"})
    try:
        assert in_text(Fields(outcome="kept")) == "WARNING milepost.store stage=store channel=in id=7 outcome=kept"
        assert in_text("hello") == "WARNING milepost.store hello stage=store channel=in id=7"
        assert in_json("hello") == {
            "level": "WARNING",
            "stage": "store",
            "channel": "in",
            "id": "7",
            "message": "hello",
        }
    finally:
        about.reset(token)
    assert in_text("hello") == "WARNING milepost.store hello"


@pytest.mark.parametrize("message", [Fields(reason="a line\n\x1b[31m\"quoted\" 'so' a=b"), Fields(reason="")])
def test_values_cannot_forge_lines_or_fields(message: Fields) -> None:
    assert in_text(message) == f"WARNING milepost.store reason={message['reason']!r}"
    assert in_json(message)["reason"] == message["reason"]


def test_traceback_is_below_the_line_or_a_field() -> None:
    line, *traceback = in_text(Fields(outcome="failed"), broken=True).splitlines()
    assert line == "WARNING milepost.store outcome=failed"
    assert traceback[0].startswith("Traceback ")
    assert traceback[-1] == "ValueError: could not convert string to float: 'a***@example.org'"
    assert in_json(Fields(outcome="failed"), broken=True)["error"] == "\n".join(traceback)


@pytest.mark.parametrize("address", ["ada@example.org", "ädä@example.org"])
def test_addresses_are_shown_in_full_only_at_debug(address: str) -> None:
    for message in (Fields(reason=f"no {address}: known"), f"no {address}: known"):
        for level in (logging.INFO, logging.ERROR):
            assert address not in in_text(message, level=level)
            assert address not in json.dumps(in_json(message, level=level), ensure_ascii=False)
        assert f"no {address}: known" in in_json(message, level=logging.DEBUG).values()


def test_masked_address_keeps_its_first_letter_and_domain() -> None:
    assert masked("from ada.l@example.org, to <b@c.de>") == "from a***@example.org, to <b***@c.de>"
    assert masked("id=ada@example.org outcome=buried") == "id=a***@example.org outcome=buried"
    assert masked("o'b@x.org, mary.o'neil@x.org") == "o***@x.org, m***@x.org"
    assert masked("KeyError(''ada@example.org')") == "KeyError(''a***@example.org')"


def test_masking_takes_linear_time() -> None:
    """In proportion to its length: else one event's text would hold up a process for an hour."""
    for text in ("a" * 1_000_000, "'" * 1_000_000, "a'" * 500_000):
        assert masked(text) == text


@pytest.mark.parametrize(("name", "value"), [("LOG_FORMAT", "xml"), ("LOG_LEVEL", "LOUD")])
def test_wrong_log_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"{name}: must be "):
        configure()
