"""The server that sleeps: what ends it wakes it, though it looks by itself but once an hour."""

import asyncio
import signal
import subprocess
import sys

import httpx
import pytest
import uvicorn

from milepost import server
from tests.servers import ANSWER_WITHIN, HOST, eventually, free_port, wait_for

PROGRAM = """
import signal, sys, uvicorn
from milepost import server
server.PAUSE = 3600
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body"})
server.Server(uvicorn.Config(app, port=int(sys.argv[1]), lifespan="off", loop=sys.argv[2])).run()
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_signal_ends_it(loop: str) -> None:
    port = free_port()
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(port), loop], stderr=subprocess.PIPE) as process:
        try:
            wait_for(lambda: answers(port), what="an answer")
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: process.poll() is not None, what="its end")
        finally:
            process.kill()
    assert process.returncode == 0


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://{HOST}:{port}", timeout=ANSWER_WITHIN).status_code == 204
    except httpx.TransportError:
        return False


async def test_it_ends_when_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PAUSE", 3600)

    async def app(_scope: object, _receive: object, _send: object) -> None:
        """Never asked."""

    serving = server.Server(uvicorn.Config(app, port=free_port(), lifespan="off", log_config=None))
    task = asyncio.create_task(serving.serve())
    await eventually(lambda: serving.started)
    serving.end()
    async with asyncio.timeout(ANSWER_WITHIN):
        await task
