"""The adaptive limit: how many events a stage is given at the same time."""

import asyncio

import pytest

from milepost.bridge.concurrency import (
    FIRST,
    FIRST_PROBE_AFTER,
    LEAST_EXTRA,
    MOST_EXTRA,
    MOST_READ,
    QUICK,
    ConcurrencyLimit,
    Limits,
    seconds_to_probe,
)
from tests.servers import WITHIN, eventually


def limit_of(most: int = 64, delay: float = 0.005, most_bytes: int = 1_000_000) -> ConcurrencyLimit:
    return ConcurrencyLimit(Limits(most, most_bytes), probe_delay=lambda _: delay)


class Posts:
    """Tasks that each POST one event until they are told to go."""

    def __init__(self, limit: ConcurrencyLimit, count: int) -> None:
        self.limit = limit
        self.entered: list[int] = []
        self.most = 0
        self.go = [asyncio.Event() for _ in range(count)]
        self.tasks = [asyncio.create_task(self._post(number)) for number in range(count)]

    async def _post(self, number: int) -> None:
        outage = await self.limit.enter(1)
        self.entered.append(number)
        self.most = max(self.most, self.limit.in_flight)
        try:
            await self.go[number].wait()
        finally:
            self.limit.leave(outage, 1)

    async def all(self) -> None:
        for go in self.go:
            go.set()
        async with asyncio.timeout(WITHIN):
            await asyncio.gather(*self.tasks)


def test_limit_begins_at_16_or_at_the_most_there_may_be() -> None:
    assert limit_of(512).size == FIRST == 16
    assert limit_of(3).size == 3


async def test_no_more_posts_than_the_limit_are_sent_and_the_rest_follow_in_order() -> None:
    posts = Posts(limit_of(4), 12)
    await eventually(lambda: len(posts.entered) == 4)
    posts.go[0].set()
    await eventually(lambda: len(posts.entered) == 5)
    await posts.all()
    assert posts.entered == list(range(12))
    assert posts.most == 4
    assert posts.limit.in_flight == 0


async def test_each_success_of_a_limit_in_use_raises_it_by_one_up_to_the_most() -> None:
    used = limit_of(20)
    used.unsettled = FIRST
    for expected in (17, 18, 19, 20, 20):
        used.succeeded(0.01, used.outage)
        assert used.size == expected


async def test_limit_doubles_when_all_its_responses_come_at_once() -> None:
    """As they do from a stage that takes its time: none is settled, nor another read, before the last has answered."""
    slow = limit_of()
    slow.unsettled = FIRST
    for _ in range(FIRST):
        slow.succeeded(0.01, slow.outage)
    assert slow.size == 2 * FIRST


async def test_limit_that_is_less_than_half_in_use_does_not_grow() -> None:
    idle = limit_of()
    idle.unsettled = FIRST // 2 - 1
    idle.succeeded(0.01, idle.outage)
    assert idle.size == FIRST
    idle.unsettled = FIRST // 2
    idle.succeeded(0.01, idle.outage)
    assert idle.size == FIRST + 1


async def test_limit_does_not_grow_while_responses_take_longer() -> None:
    full = limit_of()
    full.unsettled = 100
    full.succeeded(0.01, full.outage)
    full.succeeded(QUICK * 1.01, full.outage)
    assert full.size == FIRST + 1
    full.succeeded(QUICK, full.outage)
    assert full.size == FIRST + 2


async def test_slow_stage_is_compared_with_its_quickest_recent_response() -> None:
    slow = limit_of()
    slow.unsettled = 1000
    slow.succeeded(1.0, slow.outage)
    slow.succeeded(1.9, slow.outage)
    assert slow.size == FIRST + 2
    slow.succeeded(2.1, slow.outage)
    assert slow.size == FIRST + 2
    for _ in range(1000):
        slow.succeeded(4.0, slow.outage)
    assert slow.size > FIRST + 2, "it takes longer for good, and that is no queue"


async def test_quickest_response_is_measured_anew_after_an_outage() -> None:
    changed = limit_of()
    changed.unsettled = 1000
    changed.succeeded(0.01, changed.outage)
    changed.went_down(changed.outage, 0.0)
    changed.unsettled = 1000
    for _ in range(2 * FIRST):
        changed.succeeded(1.0, changed.outage)
    assert changed.size == 2 * FIRST + 1
    changed.close()


async def test_after_an_outage_slow_successes_raise_the_limit_to_16() -> None:
    back = limit_of()
    back.went_down(back.outage, 0.0)
    back.unsettled = 1000
    back.succeeded(0.01, back.outage)
    for _ in range(2 * FIRST):
        back.succeeded(1.0, back.outage)
    assert back.size > FIRST, "from 16 on the first response is the measure again"
    size = back.size
    back.succeeded(2.1, back.outage)
    assert back.size == size
    back.close()


async def test_after_an_outage_slow_successes_raise_the_limit_no_further_than_a_timeout_has_left_it() -> None:
    slow = limit_of()
    slow.timed_out(1.0, 10.0, slow.outage)
    slow.timed_out(11.0, 20.0, slow.outage)
    slow.went_down(slow.outage, 0.0)
    slow.unsettled = 1000
    for seconds in (1.0, 9.0, 9.0, 1.0):
        slow.succeeded(seconds, slow.outage)
    assert slow.size == 5
    slow.succeeded(9.0, slow.outage)
    assert slow.size == 5
    slow.succeeded(1.0, slow.outage)
    assert slow.size == 6
    slow.close()


async def test_limit_that_a_timeout_left_counts_no_more_once_it_has_grown() -> None:
    back = limit_of()
    back.timed_out(1.0, 10.0, back.outage)
    back.unsettled = 1000
    for _ in range(FIRST):
        back.succeeded(0.01, back.outage)
    back.went_down(back.outage, 0.0)
    back.unsettled = 1000
    for seconds in ([1.0, 9.0] * FIRST)[: FIRST - 1]:
        back.succeeded(seconds, back.outage)
    assert back.size == FIRST
    back.close()


async def test_response_to_a_batch_is_compared_with_batches_of_about_its_size() -> None:
    mixed = limit_of()
    mixed.unsettled = 1000
    mixed.succeeded(0.01, mixed.outage, 1)
    mixed.succeeded(1.0, mixed.outage, 16)
    mixed.succeeded(1.9, mixed.outage, 31)
    assert mixed.size == FIRST + 3
    mixed.succeeded(2.1, mixed.outage, 31)
    mixed.succeeded(0.2, mixed.outage, 1)
    assert mixed.size == FIRST + 3


async def test_limit_grows_though_a_batch_of_any_size_takes_longer_than_a_single_event() -> None:
    bursts = limit_of()
    bursts.unsettled = 1000
    bursts.succeeded(0.005, bursts.outage, 1)
    for events in (2, 4, 8, 16):
        size = bursts.size
        bursts.succeeded(0.3, bursts.outage, events)
        bursts.succeeded(0.3, bursts.outage, events)
        assert bursts.size == size + 2


async def test_quickest_response_is_forgotten_as_slowly_with_batches_as_with_single_events() -> None:
    batched, single = limit_of(512), limit_of(512)
    for limit, events in ((batched, 32), (single, 1)):
        limit.unsettled = 1000
        limit.succeeded(1.0, limit.outage, events)
        for _ in range(40):
            for _ in range(events):
                limit.succeeded(2.1, limit.outage, events)
    assert batched.size == single.size == FIRST + 1


async def test_time_outs_of_posts_under_way_together_halve_the_limit_once() -> None:
    wide = limit_of(512)
    wide.size = 100
    for began in (1.0, 2.0, 9.0):
        wide.timed_out(began, 10.0, wide.outage)
    assert wide.size == 50
    wide.timed_out(11.0, 20.0, wide.outage)
    assert wide.size == 25
    wide.size = 2
    for began in (21.0, 31.0):
        wide.timed_out(began, began + 9.0, wide.outage)
        assert wide.size == 1


async def test_time_out_of_a_post_sent_before_the_outage_lowers_no_limit() -> None:
    back = limit_of()
    before = back.outage
    back.went_down(before, 0.0)
    back.timed_out(1.0, 10.0, before)
    back.unsettled = 1000
    for _ in range(FIRST - 1):
        back.succeeded(9.0, back.outage)
    back.timed_out(2.0, 11.0, before)
    assert back.size == FIRST
    back.close()


async def test_time_out_of_a_probe_leaves_no_lower_limit() -> None:
    back = limit_of()
    back.went_down(back.outage, 0.0)
    back.timed_out(1.0, 10.0, back.outage)
    back.unsettled = 1000
    for seconds in (0.01, *[9.0] * (FIRST - 2)):
        back.succeeded(seconds, back.outage)
    assert back.size == FIRST
    back.close()


def test_bytes_held_limit_the_entries_that_may_be_read() -> None:
    wide = limit_of(512, most_bytes=1000)
    wide.size = 512
    assert wide.free == MOST_READ, "their sizes are not known yet"
    taken = [wide.count_read(1, 100) for _ in range(4)]
    assert wide.free == 6, "as large as those on average"
    taken += [wide.count_read(1, 580)]
    assert wide.free == 1, "the last may not fit"
    taken += [wide.count_read(1, 20)]
    assert wide.free == 0
    wide.count_settled(taken[0], 1, 100)
    assert wide.free == 1
    for outage, size in zip(taken[1:], [100, 100, 100, 580, 20], strict=True):
        wide.count_settled(outage, 1, size)
    assert (wide.unsettled_bytes, wide.free) == (0, MOST_READ)


async def test_nothing_is_sent_while_the_route_is_down_until_one_probe() -> None:
    down = limit_of(delay=0.05)
    outage = await down.enter(1)
    delay = down.went_down(outage, None)
    down.leave(outage, 1)
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


async def test_limit_that_grows_lets_a_waiter_and_a_read_go_on() -> None:
    grown = limit_of(2)
    grown.size = 1
    outage = await grown.enter(1)
    grown.count_read(1, 1)
    waiting, room = Posts(grown, 1), asyncio.create_task(grown.room(WITHIN))
    await asyncio.sleep(0)  # both wait now
    grown.succeeded(0.01, outage)
    await eventually(lambda: waiting.entered)
    assert await asyncio.wait_for(room, WITHIN) == 1
    grown.leave(outage, 1)
    await waiting.all()


async def test_entries_read_before_the_outage_leave_the_rest_of_the_room() -> None:
    down = limit_of(8, delay=0)
    outage = await down.enter(1)
    down.count_read(6, 600)
    down.went_down(outage, None)
    async with asyncio.timeout(WITHIN):
        probe = await down.enter(1)
    assert down.free == 1, "for the probe"
    down.count_read(1, 100)
    down.size = 4
    assert down.free == 1, "8 at most, of which 6 and 1 are taken"
    down.leave(probe, 1)


async def test_failure_without_a_request_in_an_outage_puts_off_its_probe() -> None:
    """As when Redis refuses a reply: the failure counts for the present outage."""
    down = ConcurrencyLimit(Limits(8, 1000), probe_delay=lambda failed: 0.0 if failed == 1 else 300.0)
    down.went_down(await down.enter(1), None)
    assert down.went_down(down.outage, None) == 300
    posts = Posts(down, 1)
    await asyncio.sleep(0.01)  # the first timer would have ended before this one
    assert not posts.entered
    down.end_outage(down.outage)
    await posts.all()


async def test_first_failure_of_posts_under_way_together_is_the_only_failed_probe() -> None:
    down = limit_of()
    outages = [await down.enter(1) for _ in range(8)]
    for outage in outages:
        down.went_down(outage, None)
        down.leave(outage, 1)
    assert down.found_down == 1
    down.close()


async def test_failed_probe_lengthens_the_delay_and_a_good_one_ends_the_outage() -> None:
    probes: list[int] = []

    def probe_delay(failed: int) -> float:
        probes.append(failed)
        return 0.001

    down = ConcurrencyLimit(Limits(64, 1_000_000), probe_delay=probe_delay)
    for _ in range(4):
        async with asyncio.timeout(WITHIN):
            outage = await down.enter(1)
        down.went_down(outage, None)
        down.leave(outage, 1)
    assert probes == [1, 2, 3, 4]
    outage = await down.enter(1)
    down.succeeded(0.01, down.outage)
    down.leave(outage, 1)
    assert not down.down
    assert down.free


async def test_probe_does_not_wait_for_posts_sent_before_the_outage() -> None:
    down = limit_of(8, delay=0.001)
    taken = [down.count_read(1, 1) for _ in range(8)]
    slow = [await down.enter(1) for _ in range(8)]
    down.went_down(slow[0], None)
    async with asyncio.timeout(WITHIN):
        probe = await down.enter(1)
    assert down.free == 0, "entries that were taken still count against the largest limit"
    for outage in taken:
        down.count_settled(outage, 1, 1)
    assert down.free == 1
    for outage in slow:
        down.leave(outage, 1)
    assert down.in_flight == 1, "the probe"
    down.leave(probe, 1)


@pytest.mark.parametrize(
    ("asked", "waits"),
    [(None, [9, 9, 9]), (0.1, [0.1] * 3), (7.0, [2, 4, 7, 7]), (300.0, [2, 4, 8, 16, 32, 64, 128, 256, 300])],
)
def test_time_to_the_next_probe_doubles_up_to_the_retry_after(asked: float | None, waits: list[float]) -> None:
    probes = range(1, len(waits) + 1)
    assert [seconds_to_probe(failed, asked, lambda _: 9.0) for failed in probes] == waits


async def test_event_waits_for_its_retry_after_though_the_route_is_probed_sooner() -> None:
    down = limit_of(delay=0.001)
    first, second = await down.enter(1), await down.enter(1)
    assert down.went_down(first, 30.0) == 30.0
    assert down.went_down(second, 20.0) == 20.0
    assert 0 < down.went_down(second, None) <= FIRST_PROBE_AFTER
    down.close()


async def test_success_in_the_epoch_of_the_outage_reopens_at_once() -> None:
    down = limit_of(delay=300)
    first, second = await down.enter(1), await down.enter(1)
    down.went_down(first, None)
    down.leave(first, 1)
    waiting = Posts(down, 1)
    await asyncio.sleep(0)
    down.leave(second, 1)
    down.succeeded(0.01, down.outage)
    await eventually(lambda: waiting.entered)
    await waiting.all()


async def test_room_wakes_for_a_settled_entry_and_for_a_reopened_route() -> None:
    tight = limit_of(1)
    taken = tight.count_read(1, 1)
    room = asyncio.create_task(tight.room(WITHIN))
    await asyncio.sleep(0)
    assert not room.done()
    tight.count_settled(taken, 1, 1)
    assert await asyncio.wait_for(room, WITHIN) == 1
    outage = await tight.enter(1)
    tight.went_down(outage, None)
    tight.leave(outage, 1)
    assert await asyncio.wait_for(tight.room(WITHIN), WITHIN) == 1


@pytest.mark.parametrize("admitted", [False, True])
async def test_cancelled_waiter_passes_its_turn_on(admitted: bool) -> None:
    one = limit_of(1)
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
    assert one.in_flight == 0


async def test_waiter_that_is_cancelled_just_as_its_turn_comes_passes_it_on() -> None:
    one = limit_of(1)
    outage = await one.enter(1)
    posts = Posts(one, 2)
    await asyncio.sleep(0)  # each waits now
    one.leave(outage, 1)
    posts.tasks[0].cancel()  # it has its turn, and has not run since
    await eventually(lambda: posts.entered == [1])
    posts.go[1].set()
    await posts.tasks[1]
    assert one.in_flight == 0


async def test_end_of_a_batch_lets_as_many_waiters_go_as_it_had_events() -> None:
    limit = limit_of(4)
    outage = await limit.enter(4)
    posts = Posts(limit, 3)
    await asyncio.sleep(0)  # each waits now
    assert posts.entered == []
    limit.leave(outage, 4)
    await eventually(lambda: posts.entered == [0, 1, 2])
    await posts.all()


async def test_every_post_is_sent_whatever_fails_in_between() -> None:
    """No wake-up is lost: each of 200 posts passes though every seventh finds the route down and others go away."""
    busy = limit_of(8, delay=0.0005)
    passed: list[int] = []

    async def post(number: int) -> None:
        outage = await busy.enter(1)
        try:
            await asyncio.sleep(0)
        finally:
            busy.leave(outage, 1)
        if number % 7:
            busy.succeeded(0.01, busy.outage)
        else:
            busy.went_down(outage, None)
        passed.append(number)

    tasks = [asyncio.create_task(post(number)) for number in range(200)]
    await asyncio.sleep(0)
    for number in range(0, 200, 11):
        tasks[number].cancel()
    async with asyncio.timeout(WITHIN):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert len(passed) == sum(not task.cancelled() for task in tasks)
    assert busy.in_flight == 0
    busy.close()


async def test_busy_limit_waits_a_moment_for_more_room() -> None:
    busy = limit_of(16)
    outages = [busy.count_read(1, 1) for _ in range(14)]
    reading = asyncio.create_task(busy.room(WITHIN))
    await asyncio.sleep(0)
    for outage in outages[:5]:
        busy.count_settled(outage, 1, 1)
    assert await reading == 7


async def test_route_that_goes_down_in_that_moment_has_no_room() -> None:
    busy = limit_of(16, delay=3600)
    outages = [busy.count_read(1, 1) for _ in range(14)]
    entered = await busy.enter(1)
    reading = asyncio.create_task(busy.room(WITHIN))
    await asyncio.sleep(0)
    busy.went_down(entered, None)
    for outage in outages:
        busy.count_settled(outage, 1, 1)
    assert await reading == 0
    assert await busy.room(0) == 0
    busy.close()
    assert await busy.room(0) == 1


async def test_success_from_before_the_outage_opens_nothing() -> None:
    mixed = limit_of(delay=60.0)
    first, second, third = [await mixed.enter(1) for _ in range(3)]
    for outage in (first, second, third):
        mixed.leave(outage, 1)
    assert mixed.went_down(first, 30.0) == 30.0
    mixed.succeeded(0.01, second)
    mixed.end_outage(second)
    assert mixed.down
    assert mixed.size == 1
    assert mixed.went_down(third, 30.0) == 30.0
    assert mixed.found_down == 1
    mixed.close()


async def test_late_failure_after_the_reopening_waits_for_its_own_delay() -> None:
    reopened = ConcurrencyLimit(Limits(64, 1_000_000), probe_delay=lambda failed: 0.7 * failed)
    early = [await reopened.enter(1) for _ in range(3)]
    reopened.went_down(early[0], 30.0)
    reopened._start_probe()
    assert reopened.went_down(early[1], 30.0) == 30.0
    assert reopened.went_down(early[2], None) == 0.7


async def test_room_is_0_once_the_next_look_for_redeliveries_is_due() -> None:
    full = limit_of(1)
    full.count_read(1, 1)
    assert await full.room(0.001) == 0
    assert await full.room(-1) == 0


async def test_redelivery_is_sent_beyond_the_limit() -> None:
    full = limit_of(1)
    outage = await full.enter(1)
    waiting = Posts(full, 1)
    async with asyncio.timeout(WITHIN):
        again = await full.enter(1, redelivery=True)
    assert full.in_flight == 2
    assert not waiting.entered
    full.leave(outage, 1)
    full.leave(again, 1)
    await waiting.all()


async def test_redelivery_waits_while_the_route_is_down() -> None:
    down = limit_of(delay=300)
    outage = await down.enter(1)
    down.went_down(outage, None)
    down.leave(outage, 1)
    assert down.extra == 0
    again = asyncio.create_task(down.enter(1, redelivery=True))
    await asyncio.sleep(0)
    assert not again.done()
    down.end_outage(down.outage)
    assert await asyncio.wait_for(again, WITHIN) == down.outage
    assert down.extra == MOST_EXTRA


async def test_redeliveries_have_a_bound_of_bytes_of_their_own() -> None:
    full = limit_of(most_bytes=100)
    hanging = full.count_read(1, 1000)
    assert (full.free, full.extra) == (0, MOST_EXTRA)
    again = full.count_read(3, 201, redelivery=True)
    assert full.extra == LEAST_EXTRA
    full.count_settled(again, 1, 1, redelivery=True)
    assert full.extra == MOST_EXTRA
    full.count_settled(again, 2, 200, redelivery=True)
    full.count_settled(hanging, 1, 1000)
    assert (full.redelivered_bytes, full.unsettled_bytes) == (0, 0)


async def test_batch_counts_by_its_events() -> None:
    shared = limit_of()
    outage = await shared.enter(10)
    second = await shared.enter(10)
    assert shared.in_flight == 20, "a batch is not divided"
    third = asyncio.create_task(shared.enter(1))
    await asyncio.sleep(0)
    assert not third.done()
    shared.leave(outage, 10)
    shared.leave(await asyncio.wait_for(third, WITHIN), 1)
    shared.leave(second, 10)
    assert shared.in_flight == 0
    taken = shared.count_read(8, 800)
    assert (shared.unsettled, shared.unsettled_bytes, shared.free) == (8, 800, 8)
    shared.count_settled(taken, 8, 800)
    assert (shared.unsettled, shared.unsettled_bytes) == (0, 0)


async def test_batch_that_fails_is_one_failed_probe_and_the_next_batch_waits_for_it() -> None:
    """One request at a time is the probe, be it a batch that was read before the outage."""
    down = limit_of(16, delay=0.001)
    first = await down.enter(8)
    taken = down.count_read(8, 8)
    for _ in range(8):
        down.went_down(first, None)
    down.leave(first, 8)
    down.count_settled(taken, 8, 8)
    assert (down.found_down, down.size, down.in_flight, down.unsettled) == (1, 1, 0, 0)
    async with asyncio.timeout(WITHIN):
        probe = await down.enter(8)
    other = asyncio.create_task(down.enter(8))
    await asyncio.sleep(0)
    assert not other.done()
    down.succeeded(0.01, probe)
    down.leave(probe, 8)
    assert not down.down
    down.leave(await asyncio.wait_for(other, WITHIN), 8)
    assert down.in_flight == 0
