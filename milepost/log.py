"""Logs: one line an event, on standard error: `key=value`, or with LOG_FORMAT=json one JSON object.

    log.warning(Fields(stage="store", outcome="no-index", reason=str(fault)))

What is told in Fields is told in fields of the object too; any other message is its `message`. While a function has
an event in hand, each line bears its stage, channel and id, whoever logs it. No line but of DEBUG holds an e-mail
address in full.
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
)  # from the start of a word: linear
_WORD = re.compile(r"[!#-&(-<>-~]+")  # printable ASCII but blanks, quotes and =


class Fields(dict[str, Any]):
    """What happened, as the message of a log line. Names are those of the metrics: stage, channel, id, outcome."""

    def __str__(self) -> str:
        return " ".join(f"{name}={_shown(value)}" for name, value in self.items())


about: ContextVar[Mapping[str, Any]] = ContextVar("about")
"""What is being worked on here, for each line that is logged meanwhile."""


def masked(text: str) -> str:
    """`text` with the local part of each e-mail address cut to its first letter: a***@example.org."""
    return _ADDRESS.sub(r"\1***\2", text)


def configure() -> None:
    """Set up logging for a process of Milepost. `LOG_LEVEL` says from which level on, INFO unless set; `LOG_FORMAT`
    is text or json, text unless set.

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
    """`08:30:01 WARNING milepost.store stage=store outcome=no-index`, and the traceback below it, if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields, message = _told(record)
        at = datetime.fromtimestamp(record.created, UTC).astimezone()
        line = " ".join(filter(None, (f"{at:%H:%M:%S} {record.levelname} {record.name}", message, str(fields))))
        traceback = self._traceback(record)
        return _hidden(record, f"{line}\n{traceback}" if traceback else line)

    def _traceback(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
        return "\n".join([*parts, *([self.formatStack(record.stack_info)] if record.stack_info else [])])


class JsonLine(TextLine):
    """The same as one JSON object: `time` (RFC 3339, UTC), `level`, `logger`, then the fields, or `message`, or both;
    `error` is the traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields, message = _told(record)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": at, "level": record.levelname, "logger": record.name, **fields}
        line |= {"message": message} if message else {}
        traceback = self._traceback(record)
        line |= {"error": traceback} if traceback else {}
        return json.dumps({name: _plainly(record, value) for name, value in line.items()})


def _told(record: logging.LogRecord) -> tuple[Fields, str]:
    """The fields of a line, and its message where that is something else."""
    now = about.get({})
    if isinstance(record.msg, Fields):
        return Fields({**now, **record.msg}), ""
    return Fields(now), record.getMessage()


def _shown(value: object) -> str:
    text = str(value)
    return text if not isinstance(value, str) or _WORD.fullmatch(text) else repr(text)


def _plainly(record: logging.LogRecord, value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return _hidden(record, str(value))


def _hidden(record: logging.LogRecord, text: str) -> str:
    return text if record.levelno < logging.INFO else masked(text)
