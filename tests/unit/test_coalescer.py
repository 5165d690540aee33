"""The coalescer: each caller gets its own result, unless its batch, or the one before it, fails as a whole."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost.coalescer import Coalescer
from tests.servers import WITHIN, eventually


class LostError(Exception):
    """Raised by a batch."""


@dataclass(frozen=True)
class Plan:
    """One caller: the size of its item (None: it has none), how many turns it waits first, whether it is cancelled."""

    size: int | None
    wait: int
    cancelled: bool


sizes = st.integers(0, 30) | st.none()
plans = st.lists(st.builds(Plan, size=sizes, wait=st.integers(0, 4), cancelled=st.booleans()), max_size=40)


class SizeError(Exception):
    """Raised for an item without a size."""


class Runner:
    """Doubles each item, in as many turns as it has items; fails the batches whose number is in `fails`."""

    def __init__(self, fails: frozenset[int] = frozenset()) -> None:
        self.fails = fails
        self.batches: list[list[int]] = []
        self.under_way = 0

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        number = len(self.batches)
        self.batches.append(list(items))
        self.under_way += 1
        assert self.under_way == 1
        for _ in items:
            await asyncio.sleep(0)
        self.under_way -= 1
        if number in self.fails:
            raise LostError(number)
        return [item * 2 for item in items]


@settings(max_examples=150, deadline=None)
@given(plans=plans, fails=st.frozensets(st.integers(0, 8)), most_items=st.integers(1, 6), most_bytes=st.integers(1, 60))
def test_each_of_many_callers_gets_its_own_result_or_the_error_of_its_batch(
    plans: list[Plan], fails: frozenset[int], most_items: int, most_bytes: int
) -> None:
    run = Runner(fails)

    def size(number: int) -> int:
        if (size := plans[number].size) is None:
            raise SizeError(number)
        return size

    async def submit(batch: Coalescer[int, int], number: int) -> int:
        for _ in range(plans[number].wait):
            await asyncio.sleep(0)
        return await batch.submit(number)

    async def everyone() -> list[int | BaseException]:
        batch = Coalescer[int, int](run, size=size, most_items=most_items, most_bytes=most_bytes)
        tasks = [asyncio.create_task(submit(batch, number)) for number in range(len(plans))]
        for _ in range(6):
            await asyncio.sleep(0)
        for task, plan in zip(tasks, plans, strict=True):
            if plan.cancelled:
                task.cancel()
        async with asyncio.timeout(WITHIN):
            return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(everyone())
    ran_in = {item: number for number, items in enumerate(run.batches) for item in items}
    for number, result in enumerate(results):
        check(result, number, plans[number], ran_in.get(number), fails)
    for items in run.batches:
        assert len(items) <= most_items
        assert len(items) == 1 or sum(size(item) for item in items) <= most_bytes


def check(result: int | BaseException, item: int, plan: Plan, batch: int | None, fails: frozenset[int]) -> None:
    """Check the result of an item that ran in this batch (None: it never ran)."""
    match result:
        case asyncio.CancelledError():
            assert plan.cancelled
        case SizeError():
            assert (plan.size, batch, result.args) == (None, None, (item,))
        case LostError():
            assert result.args[0] in fails
            assert batch in {None, result.args[0]}
        case _:
            assert result == item * 2
            assert batch not in {None, *fails}


async def begun(run: Runner) -> None:
    async with asyncio.timeout(WITHIN):
        while not run.batches:
            await asyncio.sleep(0)


async def test_lone_item_runs_at_once_and_items_submitted_meanwhile_form_the_next_batch() -> None:
    run = Runner()
    batch = Coalescer[int, int](run, size=lambda _: 1)
    first = asyncio.create_task(batch.submit(0))
    await begun(run)
    rest = [asyncio.create_task(batch.submit(number)) for number in range(1, 5)]
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8]
    assert run.batches == [[0], [1, 2, 3, 4]]


async def test_item_whose_size_cannot_be_computed_fails_alone() -> None:
    """Neither its caller nor any other hangs, whether they came before it, with it or later."""

    def size(item: int) -> int:
        if item == 13:
            raise SizeError(item)
        return 1

    run = Runner()
    batch = Coalescer[int, int](run, size)
    async with asyncio.timeout(WITHIN):
        results = await asyncio.gather(*(batch.submit(item) for item in (1, 13, 2, 13)), return_exceptions=True)
        assert [repr(result) for result in results] == ["2", "SizeError(13)", "4", "SizeError(13)"]
        assert await batch.submit(3) == 6
        with pytest.raises(SizeError):
            await batch.submit(13)
        assert await batch.submit(4) == 8
    assert run.batches == [[1, 2], [3], [4]]


async def test_submit_raises_for_an_item_without_a_size_and_queues_nothing() -> None:
    run = Runner()
    batch = Coalescer[str, int](run, len)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await batch.submit(None)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert run.batches == []


async def test_cancelled_runner_cancels_every_caller_of_its_batch_and_of_the_next() -> None:
    started = asyncio.Event()

    async def run(items: Sequence[int]) -> Sequence[int]:
        started.set()
        await asyncio.Event().wait()
        return items

    batch = Coalescer[int, int](run, most_items=1)
    callers = [asyncio.create_task(batch.submit(item)) for item in range(3)]
    await started.wait()
    assert batch._runner
    batch._runner.cancel()
    async with asyncio.timeout(WITHIN):
        results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 3


async def test_cancelled_caller_of_a_failed_batch_harms_no_other() -> None:
    batch = Coalescer[int, int](Runner(frozenset({0})))
    gone, stays, waits = (asyncio.create_task(batch.submit(item)) for item in range(3))
    await asyncio.sleep(0)
    gone.cancel()
    results = await asyncio.gather(gone, stays, waits, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, LostError, LostError]
    assert await batch.submit(4) == 8


async def test_coalescer_runs_again_after_an_error_and_after_a_rest() -> None:
    batch = Coalescer[int, int](Runner(frozenset({0})), size=lambda _: 1)
    with pytest.raises(LostError):
        await batch.submit(1)
    assert await batch.submit(1) == 2
    assert await batch.submit(2) == 4


async def test_items_that_wait_behind_a_failed_batch_fail_with_it_and_never_run() -> None:
    run = Runner(frozenset({0}))
    batch = Coalescer[int, int](run, size=lambda _: 1, most_items=2)
    results = await asyncio.gather(*(batch.submit(number) for number in range(6)), return_exceptions=True)
    assert [repr(result) for result in results] == ["LostError(0)"] * 6
    assert run.batches == [[0, 1]]
    assert await batch.submit(6) == 12


async def test_item_larger_than_the_limit_runs_alone() -> None:
    run = Runner()
    batch = Coalescer[int, int](run, size=lambda item: item, most_bytes=10)
    assert await asyncio.gather(*(batch.submit(size) for size in (4, 100, 4, 4, 4))) == [8, 200, 8, 8, 8]
    assert run.batches == [[4], [100], [4, 4], [4]]


@pytest.mark.parametrize("answers", [0, 1, 3])
async def test_too_few_or_too_many_results_are_an_error_for_every_caller(answers: int) -> None:
    async def run(items: Sequence[int]) -> Sequence[int]:
        return list(range(answers))

    batch = Coalescer[int, int](run, size=lambda _: 1)
    async with asyncio.timeout(WITHIN):
        results = await asyncio.gather(batch.submit(1), batch.submit(2), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError]


async def test_item_runs_though_its_caller_is_cancelled() -> None:
    run = Runner()
    batch = Coalescer[int, int](run, size=lambda _: 1)
    gone, stays = asyncio.create_task(batch.submit(1)), asyncio.create_task(batch.submit(2))
    await begun(run)
    gone.cancel()
    assert await stays == 4
    assert run.batches == [[1, 2]]
    assert gone.cancelled()


async def test_item_of_a_failed_batch_is_freed_without_the_garbage_collector() -> None:
    async def run(items: Sequence[Plan]) -> Sequence[int]:
        raise LostError(len(items))

    async def submitted(batch: Coalescer[Plan, int]) -> "weakref.ref[Plan]":
        item = Plan(size=1, wait=0, cancelled=False)
        with pytest.raises(LostError):
            await batch.submit(item)
        return weakref.ref(item)

    gc.disable()
    try:
        items = await asyncio.gather(*[submitted(batch) for batch in [Coalescer[Plan, int](run)] for _ in range(3)])
        await eventually(lambda: all(item() is None for item in items))
    finally:
        gc.enable()
