"""One `milepost up` serves every test that leaves it running."""

import io
import sys
from collections.abc import Callable, Iterator

import pytest

from milepost.cli.app import main
from tests.cli.running import Ended, Up

Command = Callable[..., Ended]


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    # A lease that is renewed more often: whoever begins beside it looks for that, for a few seconds.
    with Up(tmp_path_factory.mktemp("up") / "data", env={"LEASE": "PT5S"}) as running:
        yield running.ready()
        assert running.end() == 0


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `milepost` in this process: the same, without a second's imports."""
    monkeypatch.delenv("REDIS_URL", raising=False)

    def run(*arguments: str, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["milepost", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def on_stack(command: Command, up: Up) -> Command:
    """The same, on the pipeline that runs."""

    def run(*arguments: str, stdin: str = "") -> Ended:
        return command(*arguments, "--data", str(up.data), stdin=stdin)

    return run
