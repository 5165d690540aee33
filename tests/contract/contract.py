"""The contract suite of `milepost.testing`, and helpers for this repository's contract tests."""

from pathlib import Path

from milepost.testing.contract import TRACEPARENT, StageContract
from milepost.testing.posting import answered, at_once, binary, refused, send, structured
from tests.servers import HOST

__all__ = [
    "TRACEPARENT",
    "StageContract",
    "answered",
    "at_once",
    "binary",
    "lines",
    "mongo_away",
    "refused",
    "send",
    "structured",
]


def mongo_away() -> str:
    """The URL of a MongoDB that is not there."""
    return f"mongodb://{HOST}:1/milepost"


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
