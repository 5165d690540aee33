"""One `milepost up` serves every test that leaves it running. Each test finds it without the traces of another."""

import io
import sys
from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NotThere

from milepost.cli.app import main
from milepost.journal import keys
from tests.cli.running import Ended, Up
from tests.servers import STAGES, wait_for

Command = Callable[..., Ended]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    # A lease that is renewed more often: whoever begins beside it looks for that, for a few seconds.
    with Up(tmp_path_factory.mktemp("up") / "data", env={"LEASE": "PT5S"}) as running:
        yield running.ready()
        assert running.end() == 0


@pytest.fixture
def up(stack: Up) -> Up:
    """The pipeline, without what another test left: dead and parked events, pauses, unserved stages."""
    with Redis.from_url(stack.stack["redis"]) as redis:
        wait_for(lambda: answers(redis), what="Redis, which a test may have killed")
        others = [stage for stage in redis.hkeys(keys.STAGES) if stage.decode() not in STAGES]
        for name in (*STAGES, *(stage.decode() for stage in redis.smembers(keys.DEAD) | set(others))):
            redis.delete(keys.dead(name), keys.parked(name))
        if others:
            redis.hdel(keys.STAGES, *others)
        redis.delete(keys.PAUSED)
    return stack


def answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except NotThere:  # also while it loads its data
        return False


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
