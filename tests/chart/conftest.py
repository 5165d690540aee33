"""A fake cluster for Helm's `lookup`."""

from collections.abc import Iterator

import pytest

from tests.chart.cluster import Cluster, cluster


@pytest.fixture
def kubernetes() -> Iterator[Cluster]:
    with cluster() as found:
        yield found
