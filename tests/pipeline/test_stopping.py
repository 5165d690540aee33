"""Stopped, killed, started again: what was under way goes on."""

import signal
from pathlib import Path
from uuid import uuid4

import httpx

from tests.pipeline.conftest import Pipeline
from tests.servers import ANSWER_WITHIN, STAGES, Mongo, Valkey, wait_for


def submit(pipeline: Pipeline, address: str, count: int) -> None:
    with httpx.Client(base_url=pipeline.gateway, timeout=ANSWER_WITHIN) as client:
        for lat in range(count):
            client.post("/distance", json={"email": address, "lat": lat, "long": 3}).raise_for_status()


def test_unfinished_submissions_go_on_after_a_stop(tmp_path: Path) -> None:
    address = f"u{uuid4().hex}@example.org"
    with Pipeline(tmp_path / "data") as first:
        first.ready()
        submit(first, address, 60)
        assert first.end(signal.SIGTERM) == 0
    with Pipeline(tmp_path / "data") as second:
        second.ready()
        lines = second.wait_for_email(address, 60)
    assert len(set(lines)) == 60


def test_unfinished_submissions_go_on_after_sigkill(tmp_path: Path) -> None:
    address = f"u{uuid4().hex}@example.org"
    # A mail in hand when its process is killed is taken again after SMTP's time and the request's together.
    short = {"CLAIM": "PT2S", "REQUEST_TIMEOUT": "2", "SMTP_TIMEOUT": "1"}
    with Pipeline(tmp_path / "data", env=short) as first:
        first.ready()
        submit(first, address, 60)
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
    with Pipeline(tmp_path / "data", env=short) as second:
        second.ready()
        # One whose process died between the line and its mark is mailed again: that window cannot be closed.
        wait_for(lambda: len(set(second.emails(address))) == 60, what="60 different e-mails")


def test_real_servers_replace_the_embedded_ones(tmp_path: Path) -> None:
    address = f"u{uuid4().hex}@example.org"
    with Valkey(tmp_path) as valkey, Mongo(tmp_path) as mongo:
        servers = {"REDIS_URL": valkey.url, "MONGO_URL": f"{mongo.url}/mine"}
        with Pipeline(tmp_path / "data", env=servers) as pipeline:
            pipeline.ready()
            assert pipeline.stack["redis"] == valkey.url
            assert set(pipeline.pids) == {*STAGES, "bridge", "gateway"}
            submit(pipeline, address, 1)
            pipeline.wait_for_email(address)
            assert pipeline.end() == 0
