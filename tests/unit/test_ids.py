"""Ids: UUIDv7, unique, sorted by the time they were made."""

import time
from uuid import UUID

from milepost.events.ids import new_id


def test_an_id_is_a_uuidv7_in_its_usual_spelling() -> None:
    made = new_id()
    assert UUID(made).version == 7
    assert str(UUID(made)) == made


def test_ids_are_unique_and_in_the_order_they_were_made() -> None:
    made = [new_id() for _ in range(10_000)]
    assert len(set(made)) == len(made)
    assert sorted(made) == made


def test_an_id_begins_with_a_time_that_is_not_before_it_was_made() -> None:
    """In milliseconds. It may run ahead: within one process ids never go back, however fast they are made."""
    before = int(time.time() * 1000)
    assert UUID(new_id()).int >> 80 >= before
