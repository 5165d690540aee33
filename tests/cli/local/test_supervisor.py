"""Keeping processes running, with small HTTP servers in the place of components."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from milepost.cli.exits import CommandFailed
from milepost.cli.local import supervisor
from milepost.cli.local.commands import HOST, free_port
from milepost.cli.local.console import Console
from milepost.cli.local.layout import Component, Rank
from milepost.cli.local.supervisor import Supervisor
from tests.cli.running import is_alive
from tests.servers import WITHIN, eventually

SERVER = """
import http.server, os, signal, subprocess, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

signal.signal(signal.SIGTERM, lambda *_: (print("bye", flush=True), os._exit(0)))
{begin}
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


class Bench:
    """A supervisor, its output, and components for it."""

    def __init__(self, folder: Path, lines: list[str]) -> None:
        self.folder = folder
        self.lines = lines
        self.lock = os.open(folder / "lock", os.O_WRONLY | os.O_CREAT)
        self.console = Console(["milepost"], on_failure=print)
        self.supervisor = Supervisor(self.console, lock=self.lock, on_change=lambda: None)

    def component(self, name: str, begin: str = "", rank: Rank = Rank.FUNCTION) -> Component:
        """One that runs `begin` before it listens."""
        port = free_port()
        url = f"http://{HOST}:{port}"
        command = [sys.executable, "-I", "-S", "-c", SERVER.format(begin=begin, port=port)]
        env = {"PATH": os.environ["PATH"]}
        return Component(name=name, rank=rank, command=command, url=url, ready_url=url, env=env, folder=self.folder)

    async def shows(self, part: str, times: int = 1) -> None:
        await eventually(lambda: sum(part in line for line in self.lines) >= times, what=f"{times} x {part!r}")


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    lines: list[str] = []
    monkeypatch.setattr(Console, "line", lambda _, text: lines.append(text))
    made = Bench(tmp_path, lines)
    yield made
    made.supervisor.kill()
    await made.supervisor.stop()
    os.close(made.lock)


async def test_stop_ends_gateway_bridge_functions_and_servers_in_this_order(bench: Bench) -> None:
    ranks = {"a": Rank.SERVER, "b": Rank.FUNCTION, "c": Rank.BRIDGE, "d": Rank.GATEWAY}
    await bench.supervisor.start([bench.component(name, rank=rank) for name, rank in ranks.items()])
    assert bench.supervisor.pids.keys() == ranks.keys()
    await bench.supervisor.stop()
    await bench.shows("bye", 4)
    assert [line.split()[0] for line in bench.lines if line.endswith("bye")] == ["d", "c", "b", "a"]
    assert bench.supervisor.pids == {}


async def test_component_that_dies_is_started_again_and_one_line_says_so(bench: Bench) -> None:
    await bench.supervisor.start([bench.component("a")])
    for count in (1, 2, 3):
        before = bench.supervisor.pids["a"]
        os.kill(before, signal.SIGKILL)
        await bench.shows("a was killed by SIGKILL; starting it again", count)
        await eventually(lambda: bench.supervisor.pids.get("a") not in {None, before})


async def test_component_that_ends_before_it_was_ready_is_a_fault(bench: Bench) -> None:
    with pytest.raises(CommandFailed, match="a ended with code 7 before it was ready"):
        await bench.supervisor.start([bench.component("a", "sys.exit(7)"), bench.component("b")])


async def test_command_that_does_not_exist_is_a_fault(bench: Bench) -> None:
    nowhere = Component(
        name="a", rank=Rank.SERVER, command=["/nowhere"], url="", ready_url="http://x", env={}, folder=bench.folder
    )
    with pytest.raises(CommandFailed, match=r"a cannot be started: .*/nowhere"):
        await bench.supervisor.start([nowhere])


async def test_component_that_is_late_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LATE", 0.1)
    starting = asyncio.create_task(bench.supervisor.start([bench.component("a", "time.sleep(1000)")]))
    await bench.shows("a is not ready yet: ", 2)
    starting.cancel()


async def test_component_that_does_not_end_in_time_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE", 0.2)
    await bench.supervisor.start([bench.component("a", DEAF)])
    await bench.supervisor.stop()
    await bench.shows("a did not end within 0.2 s: killed")
    assert bench.supervisor.pids == {}


async def test_kill_waits_for_no_component(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE", 1000)
    await bench.supervisor.start([bench.component("a", DEAF)])
    bench.supervisor.kill()
    async with asyncio.timeout(WITHIN):
        await bench.supervisor.stop()


async def test_restart_is_not_reported_as_a_death(bench: Bench) -> None:
    await bench.supervisor.start([bench.component("a")])
    before = bench.supervisor.pids["a"]
    await bench.supervisor.restart(["a"])
    await eventually(lambda: bench.supervisor.pids.get("a") not in {None, before})
    assert not any("starting it again" in line for line in bench.lines)


async def test_processes_that_a_component_started_end_with_the_pipeline(bench: Bench) -> None:
    begin = "open('grandchild', 'w').write(str(subprocess.Popen(['sleep', '1000']).pid))"
    await bench.supervisor.start([bench.component("a", begin)])
    grandchild = int((bench.folder / "grandchild").read_text())
    assert is_alive(grandchild)
    await bench.supervisor.stop()
    await eventually(lambda: not is_alive(grandchild))


async def test_all_output_is_shown_but_lines_without_end(bench: Bench) -> None:
    begin = (
        r"os.write(1, b'half'); os.write(1, b' line\r\n\377\n'); "
        r"os.write(2, b'x' * 2_000_000 + b'\n' + b'y' * 200_000 + b'\n')"
    )
    await bench.supervisor.start([bench.component("a", begin)])
    await eventually(lambda: sum(line.count("y") for line in bench.lines) >= 200_000)
    assert any(line.endswith("| half line") for line in bench.lines)
    assert any(line.endswith("| \N{REPLACEMENT CHARACTER}") for line in bench.lines)
    assert any(line.endswith("| (a line longer than 1 MB)") for line in bench.lines)
