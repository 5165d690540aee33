"""What becomes of an event that was not delivered, and what its route learns from it."""

import pytest

from milepost.bridge.ruling import Ruling
from milepost.bridge.settings import Delivery
from milepost.bridge.verdict import Deferred, Failed, Refused
from milepost.bridge.window import Limits, Window
from milepost.events.event import Event
from milepost.journal import Bury, Entry, Park


def entry(id: str = "1") -> Entry:  # noqa: A002
    event = Event(id=id, source="/test", type="in").to_json().encode()
    return Entry("1-1", "in", event, "", 1, 0, 0)


@pytest.fixture
def ruling() -> Ruling:
    return Ruling("stage", Delivery())


def window() -> Window:
    return Window(Limits(64, 1_000_000), backoff=lambda _: 300.0)


async def test_409_leaves_the_window_of_a_route_that_is_down_as_it_is(ruling: Ruling) -> None:
    down = window()
    epoch = await down.enter()
    down.failed(epoch, None)
    assert ruling.act(entry(), Deferred(409, "HTTP 409", 2.0), down, epoch).delay == 2.0  # type: ignore[union-attr]
    assert down.down
    down.close()


async def test_a_stage_that_refuses_an_event_is_there(ruling: Ruling) -> None:
    down = window()
    epoch = await down.enter()
    down.failed(epoch, None)
    assert isinstance(ruling.act(entry(), Refused(422, "HTTP 422"), down, down.epoch), Bury)
    assert not down.down


async def test_409_ends_a_row_of_failures(ruling: Ruling) -> None:
    open_ = window()
    for number in range(19):
        ruling.act(entry(f"{number}"), Failed(500, "HTTP 500"), open_, 0)
    ruling.act(entry("in hand"), Deferred(409, "HTTP 409", 1.0), open_, 0)
    for number in range(19):
        act = ruling.act(entry(f"{number}"), Failed(500, "HTTP 500"), open_, 0)
        assert isinstance(act, Park)
        assert act.letter.attempts == 1
    assert not open_.down
    ruling.act(entry("20"), Failed(500, "HTTP 500"), open_, 0)
    assert open_.down
    open_.close()
