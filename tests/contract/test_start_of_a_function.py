"""Modules and settings of a function's process when it serves its first event."""

import subprocess
import sys
from pathlib import Path

import pytest

from milepost.testing.posting import send
from milepost.testing.servers import Function

SOURCE = """
import gc
import sys

from milepost import Payload, stage

at_start = "flask" in sys.modules, "werkzeug" in sys.modules, gc.isenabled()


class Note(Payload, channel="note"):
    text: str


class Found(Payload, channel="found"):
    with_flask: bool
    with_werkzeug: bool
    collecting: bool
    collecting_now: bool
    frozen: int
    flask: str
    framework_sees: bool


def look(note: Note) -> Found:
    import flask
    import functions_framework
    return Found(
        **dict(zip(("with_flask", "with_werkzeug", "collecting"), at_start)),
        collecting_now=gc.isenabled(),
        frozen=gc.get_freeze_count(),
        flask=flask.Flask.__module__,
        framework_sees=functions_framework.flask.Flask is flask.Flask,
    )


main = stage(look, inline=True)
"""
LOAD = """
import sys
from milepost.function import framework
framework._NEEDED["werkzeug.local"] = {}
loaded = framework.load()
from functions_framework.aio import app
assert loaded is app
print("flask" in sys.modules, type(sys.modules["flask"]).__name__)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "main.py"
    path.write_text(SOURCE)
    return path


def test_function_is_loaded_without_flask_and_without_collector_and_serves_with_both(
    tmp_path: Path, source: Path
) -> None:
    with Function(tmp_path, "look", source=source) as function:
        event = {"specversion": "1.0", "id": "1", "source": "/me", "type": "note", "data": {"text": "event"}}
        found = send(function.url, event).json()
    assert found.pop("frozen") > 10_000
    assert found == {
        "with_flask": False,
        "with_werkzeug": False,
        "collecting": False,
        "collecting_now": True,
        "flask": "flask.app",
        "framework_sees": True,
    }


def test_function_logs_execution_ids_with_flask(tmp_path: Path, source: Path) -> None:
    with Function(tmp_path, "look", source=source, env={"LOG_EXECUTION_ID": "true"}) as function:
        event = {"specversion": "1.0", "id": "1", "source": "/me", "type": "note", "data": {"text": "event"}}
        assert send(function.url, event).json()["with_flask"] is True


def test_framework_that_needs_more_of_flask_is_imported_with_it() -> None:
    found = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=False)
    assert (found.stdout, found.stderr) == ("True module\n", "")
