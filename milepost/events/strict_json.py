"""Strict JSON (RFC 8259): every value that is read can be written again, and every other parser reads it."""

import json
import math
from typing import Any, NoReturn

DEEPEST = 200
"""Levels that data may be nested; an envelope around data may add a few."""


def decode(body: bytes) -> str:
    """Decode UTF-8 without its byte order mark, if it has one. Raises ValueError."""
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None


def loads(text: bytes | str, *, deepest: int = DEEPEST) -> Any:
    """Parse strict JSON: no NaN, no infinite number, at most `deepest` levels. Bytes are UTF-8, with or without a byte
    order mark. `dumps` can write every value that it returns.

    Raises ValueError.
    """
    if isinstance(text, bytes):
        text = decode(text)
    try:
        value = _decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as fault:
        raise ValueError(str(fault)[:120]) from None
    if text.count("[") + text.count("{") > deepest and _is_deep(value, deepest):
        raise ValueError("nested too deeply")
    return value


def loads_or_text(body: bytes) -> Any:
    """Parse strict JSON, or return the text if it is not JSON."""
    try:
        return loads(body)
    except ValueError:
        return body.decode(errors="backslashreplace")


def scan(text: str, start: int) -> tuple[Any, int]:
    """Parse the strict JSON value that begins at `start`. Return it, and where it ends. Raises ValueError."""
    try:
        value, end = _decoder.raw_decode(text, start)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[", start, end) + text.count("{", start, end) > DEEPEST and _is_deep(value, DEEPEST):
        raise ValueError("nested too deeply")
    return value, end


def is_plain(text: str, value: Any) -> bool:
    """Whether `text`, from which `value` was parsed, can be passed on as it is: it is ASCII on one line, and no object
    has two members of one name. It is false for some texts that could be passed on.
    """
    return text.isascii() and text.isprintable() and '" ' not in text and text.count('":') == _members(value)


def _members(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_members, value.values()))
    return sum(map(_members, value)) if isinstance(value, list) else 0


def dumps(value: Any) -> str:
    """Write JSON compactly, in ASCII, floats at full precision.

    Raises ValueError for NaN, infinities and values that are nested too deeply.
    """
    try:
        return _encode(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _is_deep(value: Any, deepest: int) -> bool:
    level = [value]
    for _ in range(deepest):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, dict | list) for item in level)


# Made once: json.loads and json.dumps with options make one each time.
_decoder = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
_decode = _decoder.decode
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
