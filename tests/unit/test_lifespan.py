"""A stage's own start and stop."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request

from milepost import Payload, Unavailable, stage
from milepost.errors import ConfigurationError
from milepost.function.calling import Problem, answer
from milepost.function.description import Description
from milepost.function.lifespan import leave_all
from milepost.function.stage import StageHandler, arrival
from milepost.testing.calling import event_of
from tests.servers import WITHIN, eventually


class Note(Payload, channel="note"):
    text: str


class Recorded:
    """A stage that writes down its starts, events and stops. `faults`: exceptions that its next starts raise."""

    def __init__(self, *faults: Exception) -> None:
        self.steps: list[str] = []
        self.faults = list(faults)
        self.task: asyncio.Task[Any] | None = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.pop(0)
        self.steps.append("start")
        self.task = asyncio.current_task()
        try:
            yield
        finally:
            await asyncio.sleep(0)
            assert self.task is asyncio.current_task()
            self.steps.append("stop")

    def stage(self, lifespan: Callable[..., Any] | None = None) -> StageHandler:
        def note(note: Note) -> None:
            self.steps.append(note.text)

        return stage(note, inline=True, lifespan=lifespan or self.lifespan)


def an_event(text: str) -> Any:
    return event_of("note", {"text": text})


async def test_it_is_entered_once_before_the_first_event_and_left_at_the_stop() -> None:
    recorded = Recorded()
    main = recorded.stage()
    await asyncio.gather(*(answer(main, an_event("event")) for _ in range(3)))
    assert recorded.steps == ["start", "event", "event", "event"]
    await leave_all()
    assert recorded.steps[-1] == "stop"
    await leave_all()
    assert recorded.steps.count("stop") == 1


async def test_arrival_is_before_the_wait_for_the_start() -> None:
    times: list[float] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        times.append(asyncio.get_running_loop().time())
        yield

    def note(_: Note) -> None:
        times.append(arrival.get())

    await answer(stage(note, inline=True, lifespan=lifespan), an_event("event"))
    started, arrived = times
    assert arrived < started
    await leave_all()


async def test_the_wake_up_enters_it_and_answers_503_while_that_fails() -> None:
    recorded = Recorded(Unavailable("MongoDB is away", retry_after=2))
    main = recorded.stage()
    wake_up = Request({"type": "http", "method": "GET", "headers": Headers().raw})
    refused = await main(wake_up)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert json.loads(bytes(refused.body))["detail"] == "MongoDB is away"
    assert (await main(wake_up)).status_code == 200
    assert recorded.steps == ["start"]
    await leave_all()


@pytest.mark.parametrize("fault", [Unavailable("MongoDB is away"), RuntimeError("a fault"), ConfigurationError("x")])
async def test_while_it_fails_events_wait_and_the_next_one_tries_again(fault: Exception) -> None:
    recorded = Recorded(fault)
    main = recorded.stage()
    refusals = await asyncio.gather(*(answer(main, an_event("event")) for _ in range(3)), return_exceptions=True)
    assert [refusal.status for refusal in refusals if isinstance(refusal, Problem)] == [503] * 3
    await answer(main, an_event("event"))
    assert recorded.steps == ["start", "event"]
    await leave_all()


async def test_start_may_take_half_of_a_short_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the bridge would count its timeout against the event."""
    monkeypatch.setenv("REQUEST_TIMEOUT", "0.02")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    with pytest.raises(Problem, match=r"starting for 0\.01 s"):
        await asyncio.wait_for(answer(Recorded().stage(lifespan), an_event("event")), WITHIN)
    await leave_all()


@pytest.mark.parametrize("value", ["soon", "", "-5", "0", "nan", "inf", "3601"])
def test_request_timeout_that_is_no_time_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("REQUEST_TIMEOUT", value)
    with pytest.raises(ConfigurationError, match="REQUEST_TIMEOUT: must be a number of seconds, above 0"):
        Recorded().stage()


async def test_event_is_answered_503_when_the_start_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost.function.lifespan.START_WITHIN", 0.01)
    recorded, connected = Recorded(), asyncio.Event()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await connected.wait()
        async with recorded.lifespan():
            yield

    main = recorded.stage(lifespan)
    with pytest.raises(Problem) as refused:
        await asyncio.wait_for(answer(main, an_event("event")), WITHIN)
    assert refused.value.status == 503
    connected.set()
    await eventually(lambda: recorded.steps == ["start"])
    await answer(main, an_event("event"))
    assert recorded.steps == ["start", "event"]
    await leave_all()


async def test_an_invalid_event_is_refused_before_the_start_and_though_it_fails() -> None:
    recorded = Recorded(Unavailable("MongoDB is away"))
    main = recorded.stage()
    with pytest.raises(Problem) as refused:
        await answer(main, event_of("note", {"text": 1}))
    assert (refused.value.status, recorded.faults != []) == (422, True)


async def test_a_lifespan_that_takes_an_argument_gets_the_description() -> None:
    given: list[Description] = []

    @asynccontextmanager
    async def lifespan(description: Description) -> AsyncIterator[None]:
        given.append(description)
        yield

    await answer(Recorded().stage(lifespan), an_event("event"))
    assert [description.name for description in given] == ["note"]
    await leave_all()


async def test_a_lifespan_that_ends_by_itself_is_entered_again_for_the_next_event() -> None:
    recorded = Recorded()
    failing = asyncio.Event()

    async def fail() -> None:
        await failing.wait()
        raise RuntimeError("a task of the stage's own")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with recorded.lifespan(), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(fail())
            yield
            task.cancel()

    main = recorded.stage(lifespan)
    await answer(main, an_event("first"))
    failing.set()
    await eventually(lambda: recorded.steps[-1] == "stop")
    failing.clear()
    await answer(main, an_event("second"))
    assert recorded.steps == ["start", "first", "stop", "start", "second"]
    await leave_all()


def test_a_lifespan_of_two_arguments_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="lifespan takes"):
        Recorded().stage(divmod)


def test_each_event_loop_has_its_own_and_its_end_leaves_it() -> None:
    recorded = Recorded()
    main = recorded.stage()
    for _ in range(2):
        asyncio.run(answer(main, an_event("event")))
    assert recorded.steps == ["start", "event", "stop"] * 2


@asynccontextmanager
async def hanging() -> AsyncIterator[None]:
    await asyncio.Event().wait()
    yield


async def test_a_start_that_hangs_does_not_hold_up_the_stop() -> None:
    main = Recorded().stage(hanging)
    waiting = asyncio.create_task(answer(main, an_event("event")))
    await asyncio.sleep(0)
    async with asyncio.timeout(WITHIN):
        await leave_all()
    with pytest.raises(Problem) as refused:
        await waiting
    assert refused.value.status == 503


async def test_a_start_that_is_cancelled_or_cannot_be_made_is_tried_again() -> None:
    recorded = Recorded()
    faults = [asyncio.CancelledError(), KeyError("DATABASE")]

    @asynccontextmanager
    async def cancelled(fault: BaseException) -> AsyncIterator[None]:
        raise fault
        yield

    def make() -> Any:
        if len(faults) == 1:
            raise faults.pop()
        return cancelled(faults.pop(0)) if faults else recorded.lifespan()

    main = recorded.stage(make)
    for _ in range(2):
        with pytest.raises(Problem) as refused:
            await answer(main, an_event("event"))
        assert refused.value.status == 503
    await answer(main, an_event("event"))
    assert recorded.steps == ["start", "event"]
    await leave_all()
