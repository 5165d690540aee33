import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.gateway.samples import LONDON
from tests.servers import ANSWER_WITHIN, ROOT, Module, Valkey, eventually, http_status


async def test_healthz_says_alive_and_readyz_asks_redis(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey, Module(tmp_path, "gateway", env={"REDIS_URL": valkey.url}) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=ANSWER_WITHIN) as client:
            assert (await client.get("/readyz")).json() == {"status": "ready"}
            valkey.kill()
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/healthz")).json() == {"status": "alive"}
            valkey.start()
            assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_cleanly(redis_url: str, tmp_path: Path, name: str) -> None:
    with Module(tmp_path, "gateway", env={"REDIS_URL": redis_url}) as gateway:
        os.kill(gateway.pid, signal.Signals[name])
        assert gateway._process().wait(ANSWER_WITHIN) == 0
        assert "Traceback" not in gateway.log
        assert "/readyz" not in gateway.log, "no access log"


async def test_a_stop_finishes_what_is_under_way(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey, Module(tmp_path, "gateway", env={"REDIS_URL": valkey.url}) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=ANSWER_WITHIN) as client:
            valkey.freeze()
            answer = asyncio.create_task(client.post("/distance", json=LONDON))
            await eventually(lambda: waits_for(valkey.port), what="the publish has reached Redis")
            gateway._process().terminate()
            await eventually(lambda: http_status(gateway.port, "/healthz") is None, what="it takes no more")
            valkey.thaw()
            assert (await answer).status_code == 202
            await eventually(lambda: not gateway.alive)


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


def waits_for(port: int) -> bool:
    """Whether bytes lie unread before whoever listens on this port: local address, remote, state, tx:rx queues."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "01" and int(row[4][9:], 16) for row in rows)
