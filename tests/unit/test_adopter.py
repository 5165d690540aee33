"""Messages that wait for adoption."""

import pytest

from milepost.bridge.ingest import adopter
from milepost.bridge.ingest.adopter import Buffer, ReceivedMessage


def test_messages_are_taken_in_their_order_up_to_a_number_and_to_bytes() -> None:
    buffer = Buffer()
    messages = [b"a" * 10, b"b" * 3, b"", b"c" * 4, b"d"]
    for message in messages:
        assert buffer.add(ReceivedMessage("in", message, None))
    taken = []
    while batch := buffer.take(3, 7):
        taken.append([received.message for received in batch])
    assert taken == [messages[:1], messages[1:4], messages[4:]]
    assert buffer.add(ReceivedMessage("in", b"e", None))
    assert [received.message for received in buffer.clear()] == [b"e"]
    assert len(buffer) == 0


def test_messages_that_wait_are_bounded_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopter, "MOST_BUFFERED", 3)
    monkeypatch.setattr(adopter, "MOST_BUFFERED_BYTES", 10)
    buffer = Buffer()

    def added(size: int) -> bool:
        return buffer.add(ReceivedMessage("in", b"a" * size, None))

    for _ in range(2):
        assert [added(size) for size in (6, 5, 4, 0, 0)] == [True, False, True, True, False]
        assert len(buffer.take(1, 99)) == 1
        assert [added(size) for size in (7, 6, 0)] == [False, True, False]
        assert len(buffer.clear()) == 3
