"""One `milepost up` serves every test that leaves it running. Each test finds it without the traces of another."""

import io
import sys
from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NotThere

from milepost import stage_values
from milepost.cli.app import main
from milepost.journal import keys
from tests.cli.running import Ended, Up, is_alive
from tests.servers import ROOT, STAGES, Valkey, http_status, wait_for

Command = Callable[..., Ended]

COMPONENTS = {"redis", "mongo", *STAGES, "bridge", "gateway"}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    # A lease that is renewed more often: a pipeline that starts beside it waits a few seconds for that.
    with Up(tmp_path_factory.mktemp("up") / "data", env={"LEASE": "PT5S"}) as running:
        yield running.ready()
        assert running.end() == 0


@pytest.fixture
def up(stack: Up) -> Up:
    """The pipeline, whole, without what another test left: events, dead letters, pauses, unserved stages."""
    with Redis.from_url(stack.stack["redis"]) as redis:
        wait_for(lambda: answers(redis), what="Redis, which a test may have killed")
        redis.delete(keys.PAUSED)
        for url in (stack.stack["bridge"], stack.stack["gateway"]):
            port = int(url.rstrip("/").rpartition(":")[2])
            wait_for(lambda port=port: http_status(port, "/readyz") == 200, what=f"{url} ready")
        wait_for(lambda: all_run(stack), what="every component, of which a test may have killed one")
        wait_for(lambda: at_rest(redis), what="the end of events that another test sent")
        others = [stage for stage in redis.hkeys(keys.STAGES) if stage.decode() not in STAGES]
        for name in (*STAGES, *(stage.decode() for stage in redis.smembers(keys.DEAD) | set(others))):
            redis.delete(keys.dead(name), keys.parked(name))
        if others:
            redis.hdel(keys.STAGES, *others)
    return stack


def all_run(stack: Up) -> bool:
    pids = stack.pids
    return pids.keys() == COMPONENTS and all(map(is_alive, pids.values()))


def at_rest(redis: Redis) -> bool:
    """Whether every event is parked, dead or done with: one that is under way could become a dead letter later."""
    for stage in stage_values.read(ROOT):
        journal = keys.journal(stage.consumes)
        groups = redis.xinfo_groups(journal) if redis.exists(journal) else []
        waiting = redis.xlen(keys.retries(stage.name, stage.consumes))
        for group in groups:
            if group["name"] == stage.name.encode():
                waiting += group["pending"] + (redis.xlen(journal) if group["lag"] is None else group["lag"])
        if waiting:
            return False
    return True


def answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except NotThere:  # also while it loads its data
        return False


@pytest.fixture
def redis_url(valkey_server: Valkey) -> str:
    """The run's Valkey, empty: a pipeline that starts on it has no events of other tests."""
    with Redis.from_url(valkey_server.url) as redis:
        redis.flushall()
    return valkey_server.url


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
