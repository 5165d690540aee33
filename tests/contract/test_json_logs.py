"""With LOG_FORMAT=json every line of a process is one JSON object, uvicorn's and the function's own too."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import ANSWER_WITHIN, ROOT, Function, Module, Valkey, wait_for

SOURCE = '''
import logging
from milepost import Payload, stage

class Asked(Payload, channel="asked"):
    word: str

def answer(asked: Asked) -> None:
    """Say it."""
    logging.getLogger("mine").warning("heard %s", asked.word)
    print_nothing = {}[asked.word]

main = stage(answer)
'''


def lines(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


@pytest.mark.parametrize("content_type", ["application/json", "application/cloudevents+json"])
def test_function_logs_json(tmp_path: Path, content_type: str) -> None:
    source = tmp_path / "main.py"
    source.write_text(SOURCE)
    attributes = {"specversion": "1.0", "id": "7", "source": "/me", "type": "asked"}
    headers, body = {f"ce-{name}": value for name, value in attributes.items()}, '{"word": "ada@example.org"}'
    if "cloudevents" in content_type:
        headers, body = {}, json.dumps({**attributes, "data": {"word": "ada@example.org"}})
    with Function(tmp_path, "answer", source=source, env={"LOG_FORMAT": "json"}) as function:
        answer = httpx.post(
            function.url, content=body, headers={**headers, "content-type": content_type}, timeout=ANSWER_WITHIN
        )
        assert answer.status_code == 500
        wait_for(lambda: len(function.log.splitlines()) == 2, what="two lines")
        heard, failed = lines(function.log)
    told = {"stage": "answer", "channel": "asked", "id": "7"}
    assert heard.items() >= {**told, "level": "WARNING", "logger": "mine", "message": "heard a***@example.org"}.items()
    assert failed.items() >= {**told, "level": "ERROR", "outcome": "failed"}.items()
    assert "KeyError: 'a***@example.org'" in failed["error"]


def test_function_that_does_not_start_logs_json(tmp_path: Path) -> None:
    source = tmp_path / "main.py"
    source.write_text(SOURCE + "raise RuntimeError('broken on purpose')")
    function = Function(tmp_path, "answer", source=source, env={"LOG_FORMAT": "json"})
    function.launch()
    try:
        wait_for(lambda: not function.alive, what="its end")
    finally:
        function.kill()
    assert any("broken on purpose" in json.dumps(line) for line in lines(function.log))


def test_gateway_and_bridge_log_json(tmp_path: Path) -> None:
    routes = '[{"name":"answer","consumes":"asked","url":"http://127.0.0.1:9"}]'
    with Valkey(tmp_path) as valkey:
        env = {"REDIS_URL": valkey.url, "LOG_FORMAT": "json", "ROUTES": routes}
        with Module(tmp_path, "gateway", env=env) as gateway, Module(tmp_path, "milepost.bridge", env=env) as bridge:
            event = {"specversion": "1.0", "id": "7", "source": "/me", "type": "asked", "data": 1}
            httpx.post(
                bridge.url, json=event, headers={"content-type": "application/cloudevents+json"}, timeout=ANSWER_WITHIN
            )
            wait_for(lambda: "routedown" in bridge.log, what="a delivery that failed")
            valkey.kill()
            place = {"email": "ada@example.org", "lat": 1, "long": 2}
            assert httpx.post(f"{gateway.url}/distance", json=place, timeout=ANSWER_WITHIN).status_code == 503
            wait_for(lambda: "refused" in gateway.log, what="a submission that was refused")
    told = {"stage": "answer", "channel": "asked", "id": "7", "outcome": "routedown", "status": None}
    assert any(line.items() >= told.items() for line in lines(bridge.log))
    refused = next(line for line in lines(gateway.log) if line.get("outcome") == "refused")
    assert refused["channel"] == "raw_input"
    assert len(refused["id"]) == 36
    assert "ada" not in gateway.log


@pytest.mark.parametrize("module", ["gateway", "milepost.bridge"])
def test_unknown_log_format_is_refused(module: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env={"LOG_FORMAT": "xml", "ROUTES": "[]"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert found.stderr == f"{module}: LOG_FORMAT: must be text or json\n"
