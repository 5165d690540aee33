"""A pipeline that is stopped or killed goes on with unfinished submissions when it is started again."""

import signal
from pathlib import Path
from uuid import uuid4

import httpx

from tests.pipeline.conftest import Pipeline
from tests.servers import ANSWER_WITHIN, wait_for


def submit(pipeline: Pipeline, address: str, count: int) -> None:
    with httpx.Client(base_url=pipeline.gateway, timeout=ANSWER_WITHIN) as client:
        for lat in range(count):
            client.post("/distance", json={"email": address, "lat": lat, "long": 3}).raise_for_status()


def test_unfinished_submissions_go_on_after_a_stop_and_after_sigkill(tmp_path: Path) -> None:
    stopped, killed = (f"{how}.{uuid4().hex}@example.org" for how in ("stopped", "killed"))
    # A mail that its process had taken when it was killed is taken again after SMTP's time and the request's together.
    short = {"CLAIM": "PT2S", "REQUEST_TIMEOUT": "2", "SMTP_TIMEOUT": "1"}
    with Pipeline(tmp_path / "data") as first:
        first.ready()
        submit(first, stopped, 60)
        assert first.end(signal.SIGTERM) == 0
    with Pipeline(tmp_path / "data", env=short) as second:
        second.ready()
        wait_for(lambda: all_mailed(second, stopped), what="60 different e-mails after the stop")
        submit(second, killed, 60)
        assert second.end(signal.SIGKILL) == -signal.SIGKILL
    with Pipeline(tmp_path / "data", env=short) as third:
        third.ready()
        wait_for(lambda: all_mailed(third, killed), what="60 different e-mails after SIGKILL")


def all_mailed(pipeline: Pipeline, address: str) -> bool:
    """One whose process died between the line and its mark is mailed again: that window cannot be closed."""
    return len(set(pipeline.emails(address))) == 60
