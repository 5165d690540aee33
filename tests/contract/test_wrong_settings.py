"""A function with a wrong setting does not start, and says so in a sentence, without the value: it may be a secret."""

from pathlib import Path

import pytest

from tests.servers import Function, wait_for


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        ("store", "MONGO_URL", "mongodb://ada:12/hush@host/milepost"),
        ("email", "SMTP_URL", "smtp://ada:12#hush@mail"),
        ("email", "MAIL_FROM", "Velocity, Inc. <hush@example.org>"),
        ("email", "REQUEST_TIMEOUT", "soon"),
        ("store", "REQUEST_TIMEOUT", "soon"),
        ("distance", "LOG_LEVEL", "hush"),
        ("distance", "LOG_FORMAT", "hush"),
    ],
)
def test_wrong_setting_is_reported_in_one_sentence(tmp_path: Path, stage: str, name: str, value: str) -> None:
    function = Function(tmp_path, stage, env={name: value})
    function.launch()
    try:
        wait_for(lambda: not function.alive, what="its end")
    finally:
        function.kill()
    assert function.process
    assert function.process.returncode != 0
    assert f"{name}: must " in function.log
    assert "Traceback" not in function.log
    assert "hush" not in function.log


def test_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    source = tmp_path / "main.py"
    source.write_text("from milepost import stage\nraise RuntimeError('broken on purpose')\n")
    function = Function(tmp_path, "distance", source=source)
    function.launch()
    try:
        wait_for(lambda: not function.alive, what="its end")
    finally:
        function.kill()
    assert f'"{source}", line 2' in function.log
