"""Messages that wait for adoption."""

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
