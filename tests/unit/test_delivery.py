"""Deliveries to a real HTTP server: which events go together, and the outcome of a response that is too large."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from milepost.bridge.delivery import AGAIN_ONE_MORE, Deliverer, event_id
from milepost.bridge.http.client import Client
from milepost.bridge.outcome import Delivered, Failed, Outcome, RouteDown, Undecided
from milepost.bridge.settings import DeliverySpec
from milepost.events.batch import BATCH_TYPE, write_batch
from milepost.events.event import MAX_EVENT, Event
from milepost.journal import Entry
from tests.peer import EMPTY, Line, Peer, reply
from tests.servers import free_port

LARGE = b"x" * (MAX_EVENT + 1)


def entry(id: str, event: bytes | None = None) -> Entry:
    event = event or Event(id=id, source="/test", type="in").to_json().encode()
    return Entry(stream="journal", id=f"{id}-0", channel="in", event=event, since=0)


def entries(count: int) -> list[Entry]:
    return [entry(str(number)) for number in range(count)]


@asynccontextmanager
async def deliverer(*answers: bytes, batch: int = 8, emits: Collection[str] = ("out",)) -> AsyncIterator[Deliverer]:
    """A deliverer to a stage that gives these answers, the last one again and again."""
    left = [*answers]

    async def script(line: Line) -> None:
        while True:
            await line.request()
            line.write(left.pop(0) if len(left) > 1 else left[0])

    async with Peer(script) as peer:
        spec = DeliverySpec(batch=batch, timeout=timedelta(seconds=60))
        made = Deliverer(Client(peer.url), "stage", spec=spec, emits=emits, split=False)
        yield made
        await made.close()


def sizes(batches: Sequence[Sequence[Entry]]) -> list[int]:
    return [len(batch) for batch in batches]


async def test_batch_is_as_large_as_one_event_may_be_and_no_larger() -> None:
    async with deliverer(b"", batch=512) as route:
        full = (MAX_EVENT - 1) // 3 - 1  # two brackets, and two commas between three events
        three = [entry(str(number), b"x" * full) for number in range(3)]
        assert len(write_batch(one.event for one in three)) == MAX_EVENT
        assert sizes(route.batches(three * 2)) == [3, 3]
        one_byte_more = entry("3", b"x" * (full + 1))
        assert sizes(route.batches([*three[:2], one_byte_more])) == [2, 1]
        assert sizes(route.batches([*three, *three[:2], one_byte_more])) == [3, 2, 1]


async def test_batches_are_halved_while_their_replies_are_too_large_together_and_grow_again() -> None:
    async with deliverer(*[reply(LARGE)] * 3, EMPTY) as route:
        tried = []
        for _ in range(3 + 6 * AGAIN_ONE_MORE + 6):
            batch, *_ = route.batches(entries(20))
            await route.deliver(batch)
            tried.append(len(batch))
        assert tried[:4] == [8, 4, 2, 2], "a batch has two events or more"
        assert tried[3:] == sorted(tried[3:])
        answered = [tried[3:].count(size) for size in range(2, 8)]
        assert answered == pytest.approx([AGAIN_ONE_MORE] * 6, abs=1)
        assert tried[-1] == 8, "the most that the route takes"


async def test_reply_to_a_batch_that_is_too_large_is_no_time_out() -> None:
    async with deliverer(reply(LARGE)) as route:
        for outcome in await route.deliver(entries(2)):
            assert isinstance(outcome, Undecided)
            assert f"the response is over {MAX_EVENT} bytes" in outcome.reason
            assert not outcome.timed_out


@pytest.mark.parametrize(
    ("emits", "status", "alone", "of_a_batch"),
    [
        ((), b"200 OK", Delivered, Delivered),
        ((), b"299 X", Delivered, Delivered),
        ((), b"207 Multi-Status", Delivered, Undecided),
        ((), b"300 Multiple Choices", RouteDown, Undecided),
        (("out",), b"200 OK", Failed, Undecided),
        (("out",), b"299 X", Failed, Undecided),
        (("out",), b"300 Multiple Choices", RouteDown, Undecided),
    ],
)
async def test_response_that_is_too_large_counts_by_its_status_where_nobody_reads_its_body(
    emits: Collection[str], status: bytes, alone: type[Outcome], of_a_batch: type[Outcome | Undecided]
) -> None:
    async with deliverer(reply(LARGE, status=status), emits=emits) as route:
        assert [type(outcome) for outcome in await route.deliver(entries(1))] == [alone]
        assert [type(outcome) for outcome in await route.deliver(entries(2))] == [of_a_batch] * 2


@pytest.mark.parametrize("id", ["1", 'a"b', "a\\b", "é", "x" * 256])
async def test_batch_may_hold_an_event_of_any_id(id: str) -> None:
    events = [Event(id=of, source="/test", type="out") for of in ("0", id)]
    replies = write_batch(event.to_json().encode() for event in events)
    async with deliverer(reply(replies, b"content-type: " + BATCH_TYPE.encode())) as route:
        assert await route.deliver([entry("0"), entry(id)]) == [Delivered(event) for event in events]


async def test_refused_connection_is_a_fault_of_the_route_for_each_event_of_a_batch() -> None:
    spec = DeliverySpec(batch=8)
    route = Deliverer(Client(f"http://127.0.0.1:{free_port()}"), "stage", spec=spec, emits=("out",), split=False)
    assert [type(outcome) for outcome in await route.deliver(entries(2))] == [RouteDown] * 2
    await route.close()


async def test_exception_in_the_bridge_counts_against_no_event_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Client, *given: object, **more: object) -> None:
        raise ArithmeticError

    monkeypatch.setattr(Client, "post", broken)
    async with deliverer(EMPTY) as route:
        assert await route.deliver(entries(2)) == [Undecided("ArithmeticError")] * 2
        assert await route.deliver(entries(1)) == [Failed(None, "the bridge failed at it: ArithmeticError")]


def test_id_of_an_entry_that_holds_no_event_is_empty() -> None:
    assert event_id(entry("1", b"{")) == ""
