"""Replicated servers that the tests of a module share: it takes seconds until they know each other."""

from collections.abc import Iterator

import pytest

from tests.replicated import RedisCluster, Watched

DOWN_AFTER = 4000
"""Milliseconds. A server that a busy machine stops for less than that is no reason for a failover."""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A primary, two replicas and three Sentinels. A test may leave another server as the primary."""
    servers = Watched(tmp_path_factory.mktemp("watched"), down_after=DOWN_AFTER)
    try:
        servers.launch()
        assert servers.is_ready()
        yield servers
    finally:
        servers.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three primaries with a replica each. A test may leave our slot elsewhere."""
    nodes = RedisCluster(tmp_path_factory.mktemp("cluster"), options={"cluster-node-timeout": str(DOWN_AFTER)})
    try:
        nodes.launch()
        assert nodes.is_ready()
        yield nodes
    finally:
        nodes.close()
