"""A stage's own start and stop in the process that its image runs."""

import signal
from pathlib import Path

import httpx

from milepost.testing.posting import send
from milepost.testing.servers import Function
from tests.servers import ANSWER_WITHIN

SOURCE = """
import gc
from contextlib import asynccontextmanager

from milepost import Payload, stage


class Note(Payload, channel="note"):
    text: str


def say(line: str) -> None:
    with open("steps", "a") as steps:
        steps.write(line + " ")


@asynccontextmanager
async def lifespan():
    say("start")
    yield
    say("stop")


def note(note: Note) -> None:
    say(note.text + (" frozen" if gc.get_freeze_count() else ""))


main = stage(note, lifespan=lifespan)
"""


def test_it_starts_at_the_wake_up_with_its_heap_frozen_and_stops_at_sigterm(tmp_path: Path) -> None:
    source, steps = tmp_path / "main.py", tmp_path / "steps"
    source.write_text(SOURCE.replace('"steps"', repr(str(steps))))
    with Function(tmp_path, "note", source=source) as function:
        assert httpx.get(function.url, timeout=ANSWER_WITHIN).status_code == 200
        event = {"specversion": "1.0", "id": "1", "source": "/me", "type": "note", "data": {"text": "event"}}
        assert send(function.url, event).status_code == 204
        assert steps.read_text() == "start event frozen "
        assert function.stop() in {0, -signal.SIGTERM}
    assert steps.read_text() == "start event frozen stop "


HANGING = """
import asyncio
from contextlib import asynccontextmanager

from milepost import Payload, stage
from milepost.function import lifespan as waiting

waiting.STOP_WITHIN = 0.1


class Note(Payload, channel="note"):
    text: str


@asynccontextmanager
async def lifespan():
    yield
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.1)
        print("cleaned up", flush=True)


def note(note: Note) -> None:
    pass


main = stage(note, lifespan=lifespan)
"""


def test_stop_that_hangs_is_cut_off_and_logged_and_the_process_ends(tmp_path: Path) -> None:
    source = tmp_path / "main.py"
    source.write_text(HANGING)
    with Function(tmp_path, "note", source=source) as function:
        assert httpx.get(function.url, timeout=ANSWER_WITHIN).status_code == 200
        assert function.stop() in {0, -signal.SIGTERM}
        assert "outcome=not-stopped reason='the lifespan did not end within 0.1 s; it was cancelled'" in function.log
        assert "cleaned up" in function.log
