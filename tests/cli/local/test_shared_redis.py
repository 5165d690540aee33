"""Two pipelines on one Redis."""

from pathlib import Path

from redis import Redis

from tests.cli.running import WITHIN, Up


def test_second_up_with_its_own_mongodb_is_refused(up: Up, tmp_path: Path) -> None:
    with Up(tmp_path / "second", env={"REDIS_URL": up.stack["redis"]}) as second:
        assert second.process.wait(WITHIN) == 1
        second.wait_for_line("milepost: REDIS_URL: another pipeline uses this Redis")
        assert "Traceback" not in second.output


def test_redis_user_without_the_right_to_count_bridges_is_named(up: Up, tmp_path: Path) -> None:
    server = up.stack["redis"]
    with Redis.from_url(server) as redis:
        redis.acl_setuser("visitor", enabled=True, nopass=True, keys="*", channels="*", commands=["+@all", "-pubsub"])
        try:
            url = server.replace("redis://", "redis://visitor:none@")
            with Up(tmp_path / "second", env={"REDIS_URL": url}) as second:
                assert second.process.wait(WITHIN) == 3
                second.wait_for_line("milepost: REDIS_URL: cannot ask for the bridges on ")
                assert "Traceback" not in second.output
        finally:
            redis.acl_deluser("visitor")
