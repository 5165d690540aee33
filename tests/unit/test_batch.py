"""Batches: each submitter gets its own result, unless its batch, or the one before it, fails as a whole."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost.batch import Batch
from tests.servers import WITHIN, eventually


class LostError(Exception):
    """What a batch raised."""


@dataclass(frozen=True)
class Plan:
    """One submitter: the size of its item, how many turns of the loop it waits first, whether it goes away at once."""

    size: int
    wait: int
    cancelled: bool


plans = st.lists(st.builds(Plan, size=st.integers(0, 30), wait=st.integers(0, 4), cancelled=st.booleans()), max_size=40)


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
def test_each_of_many_submitters_gets_its_own_result_or_its_batchs_error(
    plans: list[Plan], fails: frozenset[int], most_items: int, most_bytes: int
) -> None:
    run = Runner(fails)

    async def submit(batch: Batch[int, int], number: int) -> int:
        for _ in range(plans[number].wait):
            await asyncio.sleep(0)
        return await batch.submit(number)

    async def everyone() -> list[int | BaseException]:
        batch = Batch[int, int](
            run, size=lambda number: plans[number].size, most_items=most_items, most_bytes=most_bytes
        )
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
        if isinstance(result, asyncio.CancelledError):
            assert plans[number].cancelled
        elif isinstance(result, LostError):
            assert result.args[0] in fails
            assert ran_in.get(number, result.args[0]) == result.args[0], "its own batch failed, or it never ran"
        else:
            assert result == number * 2
            assert ran_in[number] not in fails
    for items in run.batches:
        assert len(items) <= most_items
        assert len(items) == 1 or sum(plans[item].size for item in items) <= most_bytes


async def begun(run: Runner) -> None:
    async with asyncio.timeout(WITHIN):
        while not run.batches:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)


async def test_a_lone_item_goes_at_once_and_what_comes_meanwhile_makes_the_next_batch() -> None:
    run = Runner()
    batch = Batch[int, int](run, size=lambda _: 1)
    first = asyncio.create_task(batch.submit(0))
    await begun(run)
    rest = [asyncio.create_task(batch.submit(number)) for number in range(1, 5)]
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8]
    assert run.batches == [[0], [1, 2, 3, 4]]


async def test_a_batch_is_usable_again_after_an_error_and_after_a_rest() -> None:
    batch = Batch[int, int](Runner(frozenset({0})), size=lambda _: 1)
    with pytest.raises(LostError):
        await batch.submit(1)
    assert await batch.submit(1) == 2
    assert await batch.submit(2) == 4


async def test_what_waits_behind_a_batch_that_fails_fails_with_it_and_never_runs() -> None:
    run = Runner(frozenset({0}))
    batch = Batch[int, int](run, size=lambda _: 1, most_items=2)
    results = await asyncio.gather(*(batch.submit(number) for number in range(6)), return_exceptions=True)
    assert [repr(result) for result in results] == ["LostError(0)"] * 6
    assert run.batches == [[0, 1]]
    assert await batch.submit(6) == 12


async def test_an_item_larger_than_the_limit_goes_alone() -> None:
    run = Runner()
    batch = Batch[int, int](run, size=lambda item: item, most_bytes=10)
    assert await asyncio.gather(*(batch.submit(size) for size in (4, 100, 4, 4, 4))) == [8, 200, 8, 8, 8]
    assert run.batches == [[4], [100], [4, 4], [4]]


@pytest.mark.parametrize("answers", [0, 1, 3])
async def test_too_few_or_too_many_answers_are_an_error_of_every_submitter(answers: int) -> None:
    async def run(items: Sequence[int]) -> Sequence[int]:
        return list(range(answers))

    batch = Batch[int, int](run, size=lambda _: 1)
    async with asyncio.timeout(WITHIN):
        results = await asyncio.gather(batch.submit(1), batch.submit(2), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError]


async def test_an_item_is_run_though_its_submitter_goes_away() -> None:
    run = Runner()
    batch = Batch[int, int](run, size=lambda _: 1)
    gone, stays = asyncio.create_task(batch.submit(1)), asyncio.create_task(batch.submit(2))
    await begun(run)
    gone.cancel()
    assert await stays == 4
    assert run.batches == [[1, 2]]
    assert gone.cancelled()


async def test_what_comes_within_the_pace_of_a_batch_makes_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Runner()
    batch = Batch[int, int](run, size=lambda _: 1, pace=3600)
    assert await batch.submit(1) == 2
    late = []
    for item in (2, 3, 4):
        late.append(asyncio.create_task(batch.submit(item)))
        await asyncio.sleep(0)
    assert run.batches == [[1]]
    loop = asyncio.get_running_loop()
    clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + 3600)
    assert await asyncio.gather(*late) == [4, 6, 8]
    assert run.batches == [[1], [2, 3, 4]]


async def test_a_batch_that_is_cancelled_while_it_waits_for_its_pace_leaves_nobody_waiting() -> None:
    run = Runner()
    batch = Batch[int, int](run, size=lambda _: 1, pace=3600)
    await batch.submit(1)
    waiting = asyncio.create_task(batch.submit(2))
    await eventually(lambda: batch._runner is not None)
    assert batch._runner
    batch._runner.cancel()
    async with asyncio.timeout(WITHIN):
        assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError)


async def test_an_item_whose_batch_failed_is_freed_by_itself() -> None:
    async def run(items: Sequence[Plan]) -> Sequence[int]:
        raise LostError(len(items))

    async def submitted(batch: Batch[Plan, int]) -> "weakref.ref[Plan]":
        item = Plan(size=1, wait=0, cancelled=False)
        with pytest.raises(LostError):
            await batch.submit(item)
        return weakref.ref(item)

    gc.disable()
    try:
        items = await asyncio.gather(*[submitted(batch) for batch in [Batch[Plan, int](run)] for _ in range(3)])
        await eventually(lambda: all(item() is None for item in items))
    finally:
        gc.enable()
