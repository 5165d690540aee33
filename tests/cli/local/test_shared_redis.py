"""Two pipelines on one Redis."""

from pathlib import Path

from tests.cli.conftest import Command
from tests.cli.running import WITHIN, Up
from tests.servers import wait_for


def test_second_up_with_its_own_mongodb_is_refused(up: Up, tmp_path: Path, command: Command, mongo_url: str) -> None:
    redis = up.stack["redis"]
    with Up(tmp_path / "second", env={"REDIS_URL": redis}) as second:
        assert second.process.wait(WITHIN) == 1
        second.wait_for_line("milepost: REDIS_URL: another pipeline uses this Redis")
        assert "Traceback" not in second.output
    assert command("send", "ada@example.org", "0", "0", "--data", str(up.data)).code == 0
    with Up(tmp_path / "third", env={"REDIS_URL": redis, "MONGO_URL": mongo_url}) as third:
        third.wait_for_line("REDIS_URL: another pipeline uses this Redis")
        third.ready()
        assert third.end() == 0
    # The third has told of its own functions. The bridge that is left tells of them as they are every ten seconds.
    wait_for(lambda: up.stack["functions"]["store"] in command("stages", "--redis-url", redis).stdout, 60)


def test_of_two_ups_that_begin_together_at_most_one_is_ready(redis_url: str, tmp_path: Path) -> None:
    env = {"REDIS_URL": redis_url}
    with Up(tmp_path / "one", env=env) as one, Up(tmp_path / "other", env=env) as other:

        def is_ready(up: Up) -> bool:
            return any(line.startswith("ready ") for line in list(up.lines))

        def settled(up: Up) -> bool:
            return is_ready(up) or up.ended

        wait_for(lambda: settled(one) and settled(other), WITHIN, "both are ready or have ended")
        refused = [up for up in (one, other) if not is_ready(up)]
        assert refused
        for up in refused:
            assert up.process.wait(WITHIN) == 1
            up.wait_for_line("milepost: REDIS_URL: another pipeline ")
