"""The latency row writes the journal's own commands, packed beforehand."""

import redis

from benchmarks import fill
from benchmarks.rows.latency import publishes, write
from milepost.journal import keys


def test_packed_commands_of_the_latency_row_publish_events(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        fill.journal(redis_url, [fill.submission(2)])  # so that Redis knows the script
        port = client.connection_pool.connection_kwargs["port"]
        commands = publishes([fill.submission(number) for number in range(2)])
        assert len(list(write(port, commands, rate=1000.0))) == 2
        assert client.xlen(keys.journal("raw_input")) == 3
