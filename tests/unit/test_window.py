"""The window: how many POSTs a route may have on the wire."""

import asyncio

import pytest

from milepost.bridge.window import FIRST, MOST_READ, QUICK, Limits, Window
from tests.servers import WITHIN, eventually


def window(most: int = 64, delay: float = 0.005, most_bytes: int = 1_000_000) -> Window:
    return Window(Limits(most, most_bytes), backoff=lambda _: delay)


class Posts:
    """Tasks that each take one place on the wire until they are told to go."""

    def __init__(self, window: Window, count: int) -> None:
        self.window = window
        self.entered: list[int] = []
        self.most = 0
        self.go = [asyncio.Event() for _ in range(count)]
        self.tasks = [asyncio.create_task(self._post(number)) for number in range(count)]

    async def _post(self, number: int) -> None:
        epoch = await self.window.enter()
        self.entered.append(number)
        self.most = max(self.most, self.window.on_wire)
        try:
            await self.go[number].wait()
        finally:
            self.window.leave(epoch)

    async def all(self) -> None:
        for go in self.go:
            go.set()
        async with asyncio.timeout(WITHIN):
            await asyncio.gather(*self.tasks)


def test_it_begins_at_16_or_the_most_there_may_be() -> None:
    assert window(512).size == FIRST == 16
    assert window(3).size == 3


async def test_no_more_than_its_size_enters_and_the_rest_follow_in_order() -> None:
    posts = Posts(window(4), 12)
    await eventually(lambda: len(posts.entered) == 4)
    posts.go[0].set()
    await eventually(lambda: len(posts.entered) == 5)
    await posts.all()
    assert posts.entered == list(range(12))
    assert posts.most == 4
    assert posts.window.on_wire == 0


async def test_each_success_of_a_window_in_use_widens_it_by_one_up_to_the_most() -> None:
    used = window(20)
    used.taken = FIRST
    for expected in (17, 18, 19, 20, 20):
        used.succeeded(0.01, used.epoch)
        assert used.size == expected


async def test_a_window_whose_events_come_back_all_at_once_doubles() -> None:
    """As they do from a stage that takes its time: none is settled, nor another read, before the last has answered."""
    slow = window()
    slow.taken = FIRST
    for _ in range(FIRST):
        slow.succeeded(0.01, slow.epoch)
    assert slow.size == 2 * FIRST


async def test_a_window_that_is_less_than_half_in_use_does_not_grow() -> None:
    idle = window()
    idle.taken = FIRST // 2 - 1
    idle.succeeded(0.01, idle.epoch)
    assert idle.size == FIRST


async def test_a_window_does_not_grow_where_answers_only_take_longer() -> None:
    full = window()
    full.taken = 100
    full.succeeded(0.01, full.epoch)
    full.succeeded(QUICK * 1.01, full.epoch)
    assert full.size == FIRST + 1
    full.succeeded(QUICK, full.epoch)
    assert full.size == FIRST + 2


async def test_a_stage_that_takes_its_time_is_known_by_its_quickest_answer_of_late() -> None:
    slow = window()
    slow.taken = 1000
    slow.succeeded(1.0, slow.epoch)
    slow.succeeded(1.9, slow.epoch)
    assert slow.size == FIRST + 2
    slow.succeeded(2.1, slow.epoch)
    assert slow.size == FIRST + 2
    for _ in range(1000):
        slow.succeeded(4.0, slow.epoch)
    assert slow.size > FIRST + 2, "it takes longer for good, and that is no queue"


async def test_what_comes_back_from_an_outage_is_measured_anew() -> None:
    changed = window()
    changed.taken = 1000
    changed.succeeded(0.01, changed.epoch)
    changed.failed(changed.epoch, 0.0)
    changed.taken = 1000
    changed.succeeded(1.0, changed.epoch)
    assert changed.size == 2
    changed.close()


async def test_time_outs_halve_the_window_once_for_all_that_were_on_the_wire_together() -> None:
    wide = window(512)
    wide.size = 100
    for began in (1.0, 2.0, 9.0):
        wide.timed_out(began, 10.0)
    assert wide.size == 50
    wide.timed_out(11.0, 20.0)
    assert wide.size == 25
    wide.size = 1
    wide.timed_out(21.0, 30.0)
    assert wide.size == 1


def test_what_is_held_bounds_what_is_read_by_its_bytes() -> None:
    wide = window(512, most_bytes=1000)
    wide.size = 512
    assert wide.free == MOST_READ, "their sizes are not known yet"
    taken = [wide.take(100) for _ in range(4)]
    assert wide.free == 6, "as large as those on average"
    taken += [wide.take(580)]
    assert wide.free == 1, "the last may not fit"
    taken += [wide.take(20)]
    assert wide.free == 0
    wide.settled(taken[0], 100)
    assert wide.free == 1
    for epoch, size in zip(taken[1:], [100, 100, 100, 580, 20], strict=True):
        wide.settled(epoch, size)
    assert (wide.held, wide.free) == (0, MOST_READ)


async def test_when_the_route_is_down_nothing_passes_until_one_probe_may() -> None:
    down = window(delay=0.05)
    epoch = await down.enter()
    delay = down.failed(epoch, None)
    down.leave(epoch)
    assert 0 < delay <= 0.05
    assert down.down
    assert down.free == 0
    posts = Posts(down, 5)
    await asyncio.sleep(0)
    assert not posts.entered
    await eventually(lambda: len(posts.entered) == 1)
    assert down.size == 1
    await posts.all()
    assert posts.most == 1


async def test_of_what_was_on_the_wire_only_the_first_failure_is_a_strike() -> None:
    down = window()
    epochs = [await down.enter() for _ in range(8)]
    for epoch in epochs:
        down.failed(epoch, None)
        down.leave(epoch)
    assert down.strikes == 1
    down.close()


async def test_a_probe_that_fails_lengthens_the_delay_and_one_that_succeeds_ends_it() -> None:
    strikes: list[int] = []

    def backoff(strike: int) -> float:
        strikes.append(strike)
        return 0.001

    down = Window(Limits(64, 1_000_000), backoff=backoff)
    for _ in range(4):
        async with asyncio.timeout(WITHIN):
            epoch = await down.enter()
        down.failed(epoch, None)
        down.leave(epoch)
    assert strikes == [1, 2, 3, 4]
    epoch = await down.enter()
    down.succeeded(0.01, down.epoch)
    down.leave(epoch)
    assert not down.down
    assert down.free


async def test_a_probe_does_not_wait_for_what_was_on_the_wire_before_the_outage() -> None:
    down = window(8, delay=0.001)
    taken = [down.take(1) for _ in range(8)]
    slow = [await down.enter() for _ in range(8)]
    down.failed(slow[0], None)
    async with asyncio.timeout(WITHIN):
        probe = await down.enter()
    assert down.free == 0, "what is taken still counts against the most there may be"
    for epoch in taken:
        down.settled(epoch, 1)
    assert down.free == 1
    for epoch in slow:
        down.leave(epoch)
    assert down.on_wire == 1, "the probe"
    down.leave(probe)


async def test_retry_after_stands_in_for_the_backoff() -> None:
    down = window(delay=0.001)
    assert 29 < down.failed(await down.enter(), 30) <= 30
    down.close()


async def test_a_success_of_one_that_was_on_the_wire_reopens_at_once() -> None:
    down = window(delay=300)
    first, second = await down.enter(), await down.enter()
    down.failed(first, None)
    down.leave(first)
    waiting = Posts(down, 1)
    await asyncio.sleep(0)
    down.leave(second)
    down.succeeded(0.01, down.epoch)
    await eventually(lambda: waiting.entered)
    await waiting.all()


async def test_room_wakes_for_a_settled_entry_and_for_a_reopened_route() -> None:
    tight = window(1)
    taken = tight.take(1)
    room = asyncio.create_task(tight.room())
    await asyncio.sleep(0)
    assert not room.done()
    tight.settled(taken, 1)
    assert await asyncio.wait_for(room, WITHIN) == 1
    epoch = await tight.enter()
    tight.failed(epoch, None)
    tight.leave(epoch)
    assert await asyncio.wait_for(tight.room(), WITHIN) == 1


@pytest.mark.parametrize("admitted", [False, True])
async def test_a_waiter_that_is_cancelled_passes_its_place_on(admitted: bool) -> None:  # noqa: FBT001
    one = window(1)
    posts = Posts(one, 3)
    await eventually(lambda: posts.entered == [0])
    if admitted:
        posts.go[0].set()
        await posts.tasks[0]
    posts.tasks[1].cancel()
    await asyncio.gather(posts.tasks[1], return_exceptions=True)
    posts.go[0].set()
    await eventually(lambda: 2 in posts.entered)
    posts.go[2].set()
    await posts.tasks[2]
    assert one.on_wire == 0


async def test_all_get_through_whatever_fails_in_between() -> None:
    """No wake-up is lost: each of 200 posts passes though every seventh finds the route down and others go away."""
    busy = window(8, delay=0.0005)
    passed: list[int] = []

    async def post(number: int) -> None:
        epoch = await busy.enter()
        try:
            await asyncio.sleep(0)
        finally:
            busy.leave(epoch)
        if number % 7:
            busy.succeeded(0.01, busy.epoch)
        else:
            busy.failed(epoch, None)
        passed.append(number)

    tasks = [asyncio.create_task(post(number)) for number in range(200)]
    await asyncio.sleep(0)
    for number in range(0, 200, 11):
        tasks[number].cancel()
    async with asyncio.timeout(WITHIN):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert len(passed) == sum(not task.cancelled() for task in tasks)
    assert busy.on_wire == 0
    busy.close()


async def test_a_route_that_is_busy_reads_what_comes_free_in_a_moment_at_once() -> None:
    busy = window(16)
    epochs = [busy.take(1) for _ in range(14)]
    reading = asyncio.create_task(busy.room())
    await asyncio.sleep(0)
    for epoch in epochs[:5]:
        busy.settled(epoch, 1)
    assert await reading == 7


async def test_a_route_that_goes_down_in_that_moment_reads_nothing() -> None:
    busy = window(16, delay=3600)
    epochs = [busy.take(1) for _ in range(14)]
    entered = await busy.enter()
    reading = asyncio.create_task(busy.room())
    await asyncio.sleep(0)
    busy.failed(entered, None)
    for epoch in epochs:
        busy.settled(epoch, 1)
    await eventually(lambda: not busy._changed.is_set(), what="waiting again")
    assert not reading.done()
    busy.close()
    busy.settled(busy.take(1), 1)
    assert await reading == 1


async def test_a_success_from_before_it_went_down_opens_nothing() -> None:
    mixed = window(delay=60.0)
    first, second, third = [await mixed.enter() for _ in range(3)]
    for epoch in (first, second, third):
        mixed.leave(epoch)
    assert mixed.failed(first, 30.0) == 30.0
    mixed.succeeded(0.01, second)
    mixed.answered(second)
    assert mixed.down
    assert mixed.size == 1
    assert 0 < mixed.failed(third, 30.0) <= 30.0, "no second strike, and no sooner"
    mixed.close()


async def test_what_fails_after_the_route_is_open_again_waits_as_it_was_told() -> None:
    reopened = window(delay=0.7)
    early = [await reopened.enter() for _ in range(3)]
    reopened.failed(early[0], 30.0)
    reopened._reopen()
    assert reopened.failed(early[1], 30.0) == 30.0
    assert reopened.failed(early[2], None) == 0.7
