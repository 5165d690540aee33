"""`milepost send`."""

import os
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

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
        ("me:secret@127.0.0.1:65536", "must look"),
    ):
        done = on_stack("send", "ada@example.org", "0", "0", "--gateway", f"http://{gateway}")
        assert told in done.stderr
        assert "secret" not in done.stderr


class Gateway(HTTPServer):
    """Answers its requests with these statuses, one after the other. None closes the connection, and 0 the port too.

    `body` is that of each answer to a POST.
    """

    timeout = WITHIN

    def __init__(self, *answers: int | None) -> None:
        super().__init__((HOST, 0), GatewayRequest)
        self.url = f"http://{HOST}:{self.server_port}"
        self.answers = iter(answers)
        self.body = b'{"detail": "busy"}'
        self.keys: list[str] = []
        """The Idempotency-Key of each POST."""
        threading.Thread(target=lambda: [self.handle_request() for _ in answers], daemon=True).start()


class GatewayRequest(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.keys.append(self.headers["idempotency-key"])
        answer = next(self.server.answers)
        if answer == 0:
            self.server.server_close()
        elif answer is not None:
            self.send_response(answer)
            self.end_headers()
            self.wfile.write(self.server.body)

    def do_GET(self) -> None:
        """Answer with an event stream that is not the gateway's, or with 204: nothing more is to come."""
        answer = next(self.server.answers) or 500
        self.send_response(answer)
        self.end_headers()
        if answer == 200:
            self.wfile.write(b"data: []\n\n")

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("answers", "code", "told"),
    [
        ([None, 503], 3, "the gateway takes nothing now: busy; "),
        ([None, None], 3, "no answer from http://"),
        ([0], 3, "no answer from http://"),
        ([502], 1, "the gateway answered 502: busy; "),
        ([None, 429], 1, "the gateway answered 429: busy; "),
    ],
)
def test_send_names_the_key_wherever_the_gateway_may_have_accepted_it(
    command: Command, answers: list[int | None], code: int, told: str
) -> None:
    with Gateway(*answers) as gateway:
        done = command("send", "ada@example.org", "0", "0", "--gateway", gateway.url)
    assert (done.code, told in done.stderr) == (code, True), done.stderr
    assert f"it may have accepted the submission: with `--key {gateway.keys[0]}`" in done.stderr
    assert gateway.keys == [gateway.keys[0]] * len(answers)


@pytest.mark.parametrize(
    "body", [b"<p>Welcome", b"\xff", b"[]", b'{"id": "1"}', b'{"id": 1, "status": "/"}', b'{"id": "1", "status": null}']
)
def test_send_names_the_key_when_a_202_has_no_id_and_path(command: Command, body: bytes) -> None:
    with Gateway(202) as gateway:
        gateway.body = body
        done = command("send", "ada@example.org", "0", "0", "--gateway", gateway.url)
    assert (done.code, "the gateway answered 202, but without" in done.stderr) == (1, True), done.stderr
    assert f"it may have accepted the submission: with `--key {gateway.keys[0]}`" in done.stderr


def test_send_asks_again_after_an_event_that_is_not_the_gateways(command: Command) -> None:
    with Gateway(202, 200, 204) as gateway:
        gateway.body = b'{"id": "1", "status": "/submissions/1"}'
        done = command("send", "ada@example.org", "0", "0", "--gateway", gateway.url)
    assert (done.code, list(gateway.answers)) == (0, []), done.stderr


@pytest.mark.parametrize("gateway", ["me:hush@xn--.com", "xn--a.com:80", "me:hush@:1", "", "a/\udcff"])
def test_send_refuses_a_gateway_without_a_host_that_can_be_looked_up(command: Command, gateway: str) -> None:
    done = command("send", "ada@example.org", "0", "0", "--gateway", f"http://{gateway}")
    assert (done.code, "--gateway: must look like http://host:port" in done.stderr) == (2, True), done.stderr
    assert "hush" not in done.stderr


def test_send_writes_the_key_as_a_shell_reads_it(command: Command) -> None:
    with Gateway(None, None) as gateway:
        done = command("send", "ada@example.org", "0", "0", "--gateway", gateway.url, "--key", "a'b$c")
    assert gateway.keys == ["a'b$c"] * 2
    assert """with `--key 'a'"'"'b$c'`""" in done.stderr


@pytest.mark.parametrize("key", ["", "schl\u00fcssel", "two words", "two\nlines", "x" * 256])
def test_send_refuses_a_key_that_the_gateway_would_refuse(command: Command, key: str) -> None:
    done = command("send", "ada@example.org", "0", "0", "--gateway", "http://127.0.0.1:1", "--key", key)
    assert (done.code, "--key: must be 1 to 255 visible ASCII characters" in done.stderr) == (2, True), done.stderr


def test_send_refuses_an_argument_that_is_not_utf8(command: Command) -> None:
    done = command("send", "ada\udcff@example.org", "0", "0", "--gateway", "http://127.0.0.1:1")
    assert (done.code, "must be UTF-8" in done.stderr) == (2, True), done.stderr


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
