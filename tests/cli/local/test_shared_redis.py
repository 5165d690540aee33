"""Two pipelines on one Redis."""

from pathlib import Path

from tests.cli.running import WITHIN, Up


def test_second_up_with_its_own_mongodb_is_refused(up: Up, tmp_path: Path) -> None:
    with Up(tmp_path / "second", env={"REDIS_URL": up.stack["redis"]}) as second:
        assert second.process.wait(WITHIN) == 1
        second.wait_for_line("milepost: REDIS_URL: another pipeline uses this Redis")
        assert "Traceback" not in second.output
