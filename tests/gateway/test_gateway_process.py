import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.gateway.samples import LONDON
from tests.servers import ANSWER_WITHIN, HOST, ROOT, Module, Valkey, eventually, http_status, wait_for


async def test_healthz_says_alive_and_readyz_asks_redis(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey, Module(tmp_path, "gateway", env={"REDIS_URL": valkey.url}) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=ANSWER_WITHIN) as client:
            assert (await client.get("/readyz")).json() == {"status": "ready"}
            valkey.kill()
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/healthz")).json() == {"status": "alive"}
            valkey.start()

            async def is_ready() -> bool:
                """Whether it has looked again: the result of a look counts for 0.2 s."""
                return (await client.get("/readyz")).status_code == 200

            await eventually(is_ready)


@pytest.mark.usefixtures("redis")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_cleanly(redis_url: str, tmp_path: Path, name: str) -> None:
    with Module(tmp_path, "gateway", env={"REDIS_URL": redis_url}) as gateway:
        os.kill(gateway.pid, signal.Signals[name])
        assert gateway._process().wait(ANSWER_WITHIN) == 0
        assert "Traceback" not in gateway.log
        assert "/readyz" not in gateway.log, "no access log"


@pytest.mark.usefixtures("redis")
def test_stop_finishes_requests_under_way(redis_url: str, tmp_path: Path) -> None:
    body = json.dumps(LONDON).encode()
    head = f"POST /distance HTTP/1.1\r\nhost: it\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    with (
        Module(tmp_path, "gateway", env={"REDIS_URL": redis_url}) as gateway,
        socket.create_connection((HOST, gateway.port), ANSWER_WITHIN) as client,
    ):
        client.sendall(f"{head}expect: 100-continue\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 100 ")
        gateway._process().terminate()
        wait_for(lambda: http_status(gateway.port, "/healthz") is None, what="it takes no more")
        client.sendall(body)
        assert client.recv(1000).startswith(b"HTTP/1.1 202 ")
        wait_for(lambda: not gateway.alive)


def test_a_redis_that_hangs_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey, Module(tmp_path, "gateway", env={"REDIS_URL": valkey.url}) as gateway:
        valkey.freeze()
        assert gateway.stop() == 0
        valkey.thaw()


def test_a_wrong_setting_is_named_at_start() -> None:
    env = {**os.environ, "REDIS_URL": "redis://:hush@127.0.0.1/3", "PORT": "x"}
    found = subprocess.run(
        [sys.executable, "-m", "gateway"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert "REDIS_URL" in found.stderr
    assert "PORT" in found.stderr
    assert "hush" not in found.stderr
    assert "Traceback" not in found.stderr
