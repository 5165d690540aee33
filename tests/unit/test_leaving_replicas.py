"""No write counts while a replica may have been promoted in the place of its primary."""

import pytest

from milepost.journal.shared_connection import PROMOTED_WITHIN, NotReplicated, Replicas

BOTH, ONE, NONE = ("6401", "6402"), ("6402",), ()


def info(*ports: str, history: str = "a1", state: str = "online") -> bytes:
    """INFO of a primary about its replication."""
    lines = ["# Replication", "role:master", f"connected_slaves:{len(ports)}"]
    lines += [f"slave{i}:ip=10.0.0.1,port={port},state={state},offset=7,lag=0" for i, port in enumerate(ports)]
    return "\r\n".join([*lines, f"master_replid:{history}", "master_replid2:b2", ""]).encode()


def test_writes_count_while_replicas_stay_or_come() -> None:
    replicas = Replicas()
    for now, ports in enumerate([NONE, ONE, BOTH, BOTH]):
        replicas.check(info(*ports), now)


@pytest.mark.parametrize("left", [info(*ONE), info(*BOTH, state="wait_bgsave"), info()])
def test_no_write_counts_for_a_time_after_a_replica_has_left(left: bytes) -> None:
    replicas = Replicas()
    replicas.check(info(*BOTH), 10.0)
    for now in (11.0, 11.0 + PROMOTED_WITHIN - 0.1):
        with pytest.raises(NotReplicated, match="may have been promoted"):
            replicas.check(left, now)
    replicas.check(left, 11.0 + PROMOTED_WITHIN)


def test_replica_that_comes_back_does_not_end_that_time() -> None:
    replicas = Replicas()
    replicas.check(info(*BOTH), 10.0)
    with pytest.raises(NotReplicated):
        replicas.check(info(*ONE), 11.0)
    with pytest.raises(NotReplicated):
        replicas.check(info(*BOTH), 12.0)


def test_new_primary_has_replicas_of_its_own() -> None:
    replicas = Replicas()
    replicas.check(info(*BOTH), 10.0)
    replicas.check(info(*ONE, history="c3"), 11.0)
    replicas.check(info(*ONE, history="c3"), 12.0)
