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
_decode = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite).decode
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
