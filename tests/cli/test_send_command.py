"""`milepost send`."""

import os
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.cli.conftest import Command
from tests.cli.running import WITHIN, Ended, Milepost, Up
from tests.servers import HOST, wait_for

FOR = "5"
"""Seconds in which the stage that is not frozen answers, unless the machine has too much else to do."""


def test_send_shows_each_channel_and_then_the_message(on_stack: Command) -> None:
    done = on_stack("send", "ada@example.org", "51.5074", "-0.1278")
    assert done.code == 0, done.stderr
    accepted, *lines = done.stdout.splitlines()
    assert re.fullmatch(r"accepted +[0-9a-f-]{36}", accepted)
    shown = [found[1] for line in lines if (found := re.fullmatch(r"(\S+) +\d+ ms", line))]
    way = ["raw_input", "calculated_distance", "user:email", "email:sent"]
    assert [channel for channel in shown if channel in way] == way
    assert "You are 2216.0742916592476 miles from Velocity." in lines[len(shown) :]


@pytest.mark.parametrize(
    ("lat", "long"),
    [
        ("51.5074", "\u22120.1278"),
        ("\u00a051.5074\u202f", "\u200e-0.1278"),
        ("+51.5074", "-.1278"),
        ("\u206651.5074\u2069", "\u2013\u00a00.1278"),
    ],
)
def test_pasted_coordinates_are_read(on_stack: Command, lat: str, long: str) -> None:
    done = on_stack("send", "ada@example.org", lat, long)
    assert done.code == 0, done.stderr
    assert done.stdout.endswith("You are 2216.0742916592476 miles from Velocity.\n")


def test_send_shows_the_errors_of_the_gateway(on_stack: Command) -> None:
    done = on_stack("send", "nobody", "-91", "0")
    assert done.code == 2
    assert "lat must be at least -90" in done.stderr
    assert "email " in done.stderr


def test_send_needs_only_the_gateway(up: Up, command: Command, tmp_path: Path) -> None:
    place = ("send", "ada@example.org", "32.080058", "34.864535")
    done = command(*place, "--gateway", up.stack["gateway"], "--data", str(tmp_path))
    assert done.code == 0, done.stderr
    assert "You are 0.0 miles from Velocity.\n" in done.stdout


def test_send_goes_on_after_a_restart_of_the_gateway(up: Up) -> None:
    store = up.pids["store"]
    os.kill(store, signal.SIGSTOP)
    try:
        with Milepost("send", "patient@example.org", "0", "0", "--data", str(up.data)) as sending:
            sending.wait_for_line("calculated_distance")
            killed = up.pids["gateway"]
            os.kill(killed, signal.SIGKILL)
            up.wait_for(lambda: up.pids.get("gateway") not in {None, killed}, what="another gateway")
            os.kill(store, signal.SIGCONT)
            assert sending.process.wait(WITHIN) == 0
    finally:
        os.kill(store, signal.SIGCONT)
    shown = [line.split()[0] for line in sending.lines if line.endswith(" ms")]
    assert len(shown) == len(set(shown))
    assert shown[:2] == ["raw_input", "calculated_distance"]
    assert "miles from Velocity." in sending.lines[-1]


def test_send_says_where_no_gateway_answers(on_stack: Command) -> None:
    done = on_stack("send", "ada@example.org", "0", "0", "--gateway", "http://127.0.0.1:1")
    assert done.code == 3
    assert "no gateway at http://127.0.0.1:1" in done.stderr
    for gateway, told in (
        ("me:secret@127.0.0.1:1", "no gateway at http://127.0.0.1:1"),
        ("me:12/secret@a", "must look"),
    ):
        done = on_stack("send", "ada@example.org", "0", "0", "--gateway", f"http://{gateway}")
        assert told in done.stderr
        assert "secret" not in done.stderr


class _Closing(BaseHTTPRequestHandler):
    """Closes the connection of the first POST, answers the second with 503, and closes those of the next two."""

    keys: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.keys.append(self.headers["idempotency-key"])
        if len(self.keys) == 2:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b'{"detail": "full"}')

    def log_message(self, *_: object) -> None: ...


def test_send_tries_again_with_the_same_key_if_no_answer_came(command: Command) -> None:
    with ThreadingHTTPServer((HOST, 0), _Closing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        send = ("send", "ada@example.org", "0", "0", "--gateway", f"http://{HOST}:{server.server_port}")
        full = command(*send)
        silent = command(*send, "--key", _Closing.keys[0])
        server.shutdown()
    assert (full.code, "the gateway takes nothing now: full" in full.stderr) == (3, True), full.stderr
    assert (silent.code, "no answer from http://" in silent.stderr) == (3, True), silent.stderr
    assert f"it may have accepted the submission: with `--key {_Closing.keys[0]}`" in silent.stderr
    assert len(_Closing.keys) == 4
    assert len(set(_Closing.keys)) == 1


def test_send_names_the_last_channel_when_time_is_up(up: Up, on_stack: Command) -> None:
    store = up.pids["store"]
    os.kill(store, signal.SIGSTOP)
    told: list[Ended] = []

    def distance_answered() -> bool:
        told.append(on_stack("send", "late@example.org", "0", "0", "--timeout", FOR))
        assert told[-1].code == 5
        assert f"not finished within {FOR} s: " in told[-1].stderr
        return "calculated_distance" in told[-1].stdout

    try:
        wait_for(distance_answered)
    finally:
        os.kill(store, signal.SIGCONT)
    assert "the last channel reached is calculated_distance; " in told[-1].stderr
