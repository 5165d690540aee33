"""Logs: each is one line on standard error, of `key=value`, or of one JSON object with LOG_FORMAT=json.

    log.warning(Fields(stage="store", outcome="no-index", reason=str(fault)))

The names in Fields are names in the JSON object too. A message that is no Fields is its `message`. While a function
handles an event, every line has the stage, channel and id. E-mail addresses are masked, except at level DEBUG.
"""

import json
import logging
import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from milepost.errors import ConfigurationError

FORMATS = ("text", "json")

_PART = r"[^\s@\"<>,:;=()\[\]]"
_ADDRESS = re.compile(
    rf"(?<!{_PART})('*(?!'){_PART}){_PART}*(@[^\s@\"'<>,;()\[\]]+)"
)  # begins at the start of a word only, so that it takes linear time
_WORD = re.compile(r"[!#-&(-<>-~]+")  # printable ASCII except blank, quotes and =


class Fields(dict[str, Any]):
    """The message of a log line, as names and values. Names are those of the metrics: stage, channel, id, outcome."""

    def __str__(self) -> str:
        return " ".join(f"{name}={_quoted(value)}" for name, value in self.items())


about: ContextVar[Mapping[str, Any]] = ContextVar("about")
"""Fields of every line that is logged in this context, such as the id of the event that is handled."""


def is_cut(url: str) -> bool:
    """Whether an @ follows the host of a URL. Then a password may have an unencoded / ? or #: in `http://ada:12/34@host`
    the host would be `ada`, and a request or an error would carry the rest of the password.
    """
    return re.match(r"[^/?#]*//[^/?#]*[/?#].*@", url, re.DOTALL) is not None


def masked(text: str) -> str:
    """Return `text` with the local part of each e-mail address cut to its first letter: a***@example.org."""
    return _ADDRESS.sub(r"\1***\2", text)


def configure() -> None:
    """Set up logging for a process of Milepost. `LOG_LEVEL` is the lowest level shown (INFO); `LOG_FORMAT` is text or
    json (text).

    Raises ConfigurationError.
    """
    level = os.environ.get("LOG_LEVEL", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise ConfigurationError("LOG_LEVEL: must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
    form = os.environ.get("LOG_FORMAT", "text")
    if form not in FORMATS:
        raise ConfigurationError("LOG_FORMAT: must be text or json")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLine() if form == "json" else TextLine())
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


class TextLine(logging.Formatter):
    """Formats `08:30:01 WARNING milepost.store stage=store outcome=no-index`, and below it the traceback, if any."""

    def format(self, record: logging.LogRecord) -> str:
        fields, message = _content(record)
        at = datetime.fromtimestamp(record.created, UTC).astimezone()
        line = " ".join(filter(None, (f"{at:%H:%M:%S} {record.levelname} {record.name}", message, str(fields))))
        traceback = self._traceback(record)
        return _masked_above_debug(record, f"{line}\n{traceback}" if traceback else line)

    def _traceback(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
        return "\n".join([*parts, *([self.formatStack(record.stack_info)] if record.stack_info else [])])


class JsonLine(TextLine):
    """Formats a JSON object: `time` (RFC 3339, UTC), `level`, `logger`, the fields, `message`, and in `error` the
    traceback; each only if there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields, message = _content(record)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": at, "level": record.levelname, "logger": record.name, **fields}
        line |= {"message": message} if message else {}
        traceback = self._traceback(record)
        line |= {"error": traceback} if traceback else {}
        return json.dumps({name: _json_value(record, value) for name, value in line.items()})


def _content(record: logging.LogRecord) -> tuple[Fields, str]:
    """Return the fields of a line, and its message, or an empty text."""
    context = about.get({})
    if isinstance(record.msg, Fields):
        return Fields({**context, **record.msg}), ""
    return Fields(context), record.getMessage()


def _quoted(value: object) -> str:
    text = str(value)
    return text if not isinstance(value, str) or _WORD.fullmatch(text) else repr(text)


def _json_value(record: logging.LogRecord, value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return _masked_above_debug(record, str(value))


def _masked_above_debug(record: logging.LogRecord, text: str) -> str:
    return text if record.levelno < logging.INFO else masked(text)
