"""The MongoDB of the chart: its rendered probes, run against a real server."""

import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from tests.chart.rendering import SECRET, Object, container, environment, merged, only, render
from tests.servers import HOST, WITHIN, Mongo


def mongo_container(port: int = 27017) -> Object:
    return container(only(render(merged(SECRET, {"mongo": {"port": port}})), "StatefulSet", "milepost-mongo"))


def probe(kind: str, port: int) -> int:
    command = mongo_container(port)[kind]["exec"]["command"]
    return subprocess.run(command, capture_output=True, timeout=WITHIN, check=False).returncode


@pytest.mark.parametrize("kind", ["readinessProbe", "livenessProbe"])
def test_probe_passes_while_the_server_answers(kind: str, mongo_server: Mongo) -> None:
    assert probe(kind, mongo_server.port) == 0


@pytest.mark.parametrize("kind", ["readinessProbe", "livenessProbe"])
def test_probe_fails_while_the_port_is_open_and_the_server_does_not_answer(kind: str, tmp_path: Path) -> None:
    with Mongo(tmp_path) as server:
        server.freeze()
        assert probe(kind, server.port) != 0
        server.thaw()
        assert probe(kind, server.port) == 0
    assert probe(kind, server.port) != 0, "it has ended"


def test_probe_fails_when_the_server_answers_with_an_error() -> None:
    """A reply as long as the right one, with `ok: 0.0`."""
    with socket.create_server((HOST, 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(51, socket.MSG_WAITALL)
                connection.sendall(bytes(25) + b"\x01ok\0" + struct.pack("<d", 0.0) + b"\0")

        server = threading.Thread(target=answer)
        server.start()
        assert probe("readinessProbe", listening.getsockname()[1]) != 0
        server.join()


@pytest.mark.parametrize("answer", [0, 1])
def test_startup_probe_logs_in_with_the_functions_credentials(answer: int, tmp_path: Path) -> None:
    """With a mongosh of the test, which is not installed here; the image has the real one."""
    mongosh = tmp_path / "mongosh"
    mongosh.write_text(f'#!/bin/sh\necho "$HOME" "$@" > {tmp_path}/asked\nexit {answer}\n')
    mongosh.chmod(0o755)
    found = mongo_container(27018)
    env = environment(found, {"mongo-password": "hush"})
    env |= {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOSTNAME": "milepost-mongo-0", "HOME": "/data/db"}
    command = found["startupProbe"]["exec"]["command"]
    assert subprocess.run(command, env=env, check=False).returncode == answer
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("/tmp "), "mongosh writes logs into its home, which is the volume in the image"
    assert "--host milepost-mongo-0 --port 27018 -u milepost -p hush --authenticationDatabase admin" in asked
    assert "quit(db.adminCommand({ping: 1}).ok ? 0 : 1)" in asked
