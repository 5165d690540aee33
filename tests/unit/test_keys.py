"""Every key has one hash tag, and no two things share a key."""

import pytest
from redis.crc import key_slot

from milepost.errors import EventError
from milepost.events.event import Event
from milepost.journal import keys

ALL = [
    keys.JOURNALS,
    keys.STAGES,
    keys.LEASE,
    keys.DEAD,
    keys.BACKLOG,
    keys.STATS,
    keys.LIMITS,
    keys.journal("raw_input"),
    keys.journal("user:email"),
    keys.retries("distance", "raw_input"),
    keys.parked("distance"),
    keys.dead("distance"),
    keys.dead("bridge"),
    keys.seen("/milepost/distance", "one"),
    keys.status("one"),
    keys.stats("distance", "bridge-1"),
]


def test_all_keys_are_in_one_slot_of_a_cluster() -> None:
    assert len({key_slot(key.encode()) for key in ALL}) == 1


@pytest.mark.parametrize("name", ["{other}", "a}b", "}{"])
def test_name_with_braces_does_not_move_its_key(name: str) -> None:
    named = [
        keys.journal(name),
        keys.retries(name, name),
        keys.parked(name),
        keys.dead(name),
        keys.seen(name, name),
        keys.status(name),
        keys.stats(name, name),
    ]
    assert {key_slot(key.encode()) for key in named} == {key_slot(keys.JOURNALS.encode())}


def test_no_two_names_share_a_key() -> None:
    assert len(set(ALL)) == len(ALL)
    assert keys.journal("s") != keys.JOURNALS


def test_source_and_id_cannot_be_mistaken_for_each_other() -> None:
    assert keys.seen("/a", "b|c") != keys.seen("/a/b", "c")
    with pytest.raises(EventError, match="source"):
        Event(id="c", source="/a|b", type="raw_input")
