"""Commands find the running Redis and gateway, or name the address that does not answer."""

from pathlib import Path

import pytest

from milepost.cli import locate
from milepost.cli.local import data_folder
from milepost.cli.text import plain
from milepost.errors import ConfigurationError
from tests.cli.conftest import Command


def test_option_wins_over_stack_json_and_stack_json_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)

    def found(option: str | None) -> tuple[str, str]:
        settings = locate.redis_settings(option and f"redis://{option}:1", tmp_path)
        return settings.redis_url.get_secret_value(), locate.gateway_url(option and f"http://{option}:2/", tmp_path)

    assert found(None) == ("redis://127.0.0.1:6379/0", "http://127.0.0.1:8000")
    data_folder.write_stack(tmp_path, {"redis": "redis://stack:1", "gateway": "http://stack:2"})
    assert found(None) == ("redis://stack:1", "http://stack:2")
    assert found("option") == ("redis://option:1", "http://option:2")


def test_wrong_redis_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="REDIS_URL: must look like"):
        locate.redis_settings("http://elsewhere", tmp_path)


def test_error_names_the_redis_that_does_not_answer_without_its_password(command: Command) -> None:
    for arguments in (("stages",), ("dead", "list"), ("publish", "a", "b")):
        done = command(*arguments, "--redis-url", "redis://ada:secret@127.0.0.1:1/0")
        assert done.code == 3
        assert "no Redis that can be used at redis://127.0.0.1:1/0" in done.stderr
        assert "secret" not in done.stderr


def test_version_is_printed(command: Command) -> None:
    assert command("--version").stdout.startswith("milepost ")


@pytest.mark.parametrize("name", ["up", "publish", "send", "watch", "stages", "dead list", "dead replay"])
def test_help_tells_the_exit_codes(command: Command, name: str) -> None:
    helped = command(*name.split(), "--help")
    assert helped.code == 0
    assert "Exit codes: 0 done; 1 it failed;" in helped.stdout


def test_plain_escapes_terminal_control_characters() -> None:
    assert plain("a\x1b[31m\nb\u202eé") == "a\\x1b[31m\\nb\\u202eé"
