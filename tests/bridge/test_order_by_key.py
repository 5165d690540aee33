"""A stage that is ordered by key, behind real bridges: each key keeps its order through failures and restarts."""

import asyncio
from collections import Counter
from collections.abc import Iterable

import pytest

from milepost.events.event import Event
from milepost.journal import keys
from tests.bridge.rig import Answer, Delivery, Rig, Stage, status
from tests.servers import Valkey, eventually

KEYS = "abc"
BY_KEY = {"order": "key"}
AT_ONCE = {"backoffDelay": "PT0.001S"}


def named(events: int, letters: str = KEYS) -> list[str]:
    """Return ids, of which the first letter is the key: a00 b00 c00 a01 and so on."""
    return [f"{letter}{number:02}" for number in range(events) for letter in letters]


async def publish(rig: Rig, ids: Iterable[str]) -> None:
    for one in ids:
        await rig.publish("in", one, {"key": one[0]})


def of_key(ids: Iterable[str], letter: str) -> list[str]:
    return [one for one in ids if one.startswith(letter)]


class Recording:
    """A script of a stage. `fails`: how many deliveries of an event fail. `done`: the ids that have succeeded."""

    def __init__(self, stage: Stage, fails: dict[str, int] | None = None) -> None:
        self.stage, self.fails = stage, fails or {}
        self.done: list[str] = []
        self.under_way: Counter[str] = Counter()
        self.together: set[str] = set()
        """The keys of which two events were under way at once."""
        stage.script = self

    async def __call__(self, delivery: Delivery) -> Answer:
        one = delivery.event.id
        self.under_way[one[0]] += 1
        if self.under_way[one[0]] > 1:
            self.together.add(one[0])
        await asyncio.sleep(0)
        self.under_way[one[0]] -= 1
        if delivery.count <= self.fails.get(one, 0):
            return status(500)
        if one not in self.done:
            self.done.append(one)
        return self.stage.succeed(delivery)


async def test_each_key_keeps_its_order_through_retries_and_others_go_beside_it(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    ids = named(12)
    recording = Recording(stage, {one: number % 4 for number, one in enumerate(ids)})
    await rig.bridge(BY_KEY | AT_ONCE)
    await rig.bridge(BY_KEY | AT_ONCE)
    await publish(rig, ids)
    await eventually(lambda: len(recording.done) == len(ids))
    await eventually(lambda: rig.settled(stage))
    for letter in KEYS:
        assert of_key(recording.done, letter) == of_key(ids, letter)
    assert not recording.together
    assert not await rig.redis.exists(keys.held("stage", "in"), keys.in_hand("stage", "in"))
    assert sorted(await rig.journaled("out")) == sorted(ids)


async def test_poisoned_key_holds_up_its_own_events_alone(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    poisoned, others = [f"p{number:02}" for number in range(40)], named(40, "abcdefghij")
    recording = Recording(stage, {"p00": 1_000_000})
    (bridge,) = [await rig.bridge(BY_KEY | {"backoffDelay": "PT1H", "retry": 10})]
    await publish(rig, ["p00", *poisoned[1:20], *others[:200], *poisoned[20:], *others[200:]])
    await eventually(lambda: len(recording.done) == len(others))
    assert await rig.parked("stage") == 1
    assert stage.count["p00"] == 1
    assert not of_key(recording.done, "p")
    (worker,) = bridge.workers
    await eventually(lambda: not worker.in_delivery, what="nothing of the key is in the bridge")
    assert await rig.redis.zcard(keys.held("stage", "in")) == 39
    recording.fails.clear()
    await rig.overdue("stage")
    await eventually(lambda: of_key(recording.done, "p") == poisoned)


async def test_dead_letter_lets_the_next_event_of_its_key_go(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    recording = Recording(stage, {"a00": 1_000_000, "a02": 1_000_000})
    await rig.bridge(BY_KEY | AT_ONCE | {"retry": 1})
    await publish(rig, ["a00", "a01", "a02", "a03"])
    await eventually(lambda: recording.done == ["a01", "a03"])
    recording.fails.clear()
    letters = await rig.dead("stage")
    assert [letter.id for letter in letters] == ["a00", "a02"]
    await rig.journal.admin.replay("stage", [letter.entry for letter in reversed(letters)])
    await eventually(lambda: recording.done == ["a01", "a03", "a00", "a02"])


async def test_killed_bridge_and_its_successors_keep_the_order(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    ids = named(8)
    recording = Recording(stage)
    hang = asyncio.Event()

    async def hang_at_first(delivery: Delivery) -> Answer:
        if delivery.event.id.endswith("03") and delivery.count == 1:
            await hang.wait()
            return None
        return await recording(delivery)

    stage.script = hang_at_first
    killed = await rig.running(BY_KEY, CLAIM="PT1S")
    await publish(rig, ids)
    await eventually(lambda: all(stage.count[f"{letter}03"] == 1 for letter in KEYS))
    killed.kill()
    survivors = [await rig.bridge(BY_KEY, claim="PT1S"), await rig.bridge(BY_KEY, claim="PT1S")]
    await eventually(lambda: len(recording.done) == len(ids))
    for letter in KEYS:
        assert of_key(recording.done, letter) == of_key(ids, letter)
    assert len(survivors) == 2
    hang.set()


async def test_order_outlives_the_restart_of_everything(own: Rig, valkey: Valkey) -> None:
    stage = await own.stage("stage", "in", "out")
    ids = named(6)
    recording = Recording(stage, {"a01": 1, "b03": 1})
    first = await own.bridge(BY_KEY | {"backoffDelay": "PT1H"})
    await publish(own, ids)
    await eventually(lambda: len(recording.done) == 1 + 3 + 6, what="the events before the two that fail")
    await own.stop(first)
    await own.redis.connection_pool.disconnect()
    valkey.close()
    valkey.start()
    await own.bridge(BY_KEY)
    await own.overdue("stage")
    await eventually(lambda: len(recording.done) == len(ids))
    for letter in KEYS:
        assert of_key(recording.done, letter) == of_key(ids, letter)


async def test_batch_has_one_event_of_a_key_at_most(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    done: list[str] = []

    def together(events: list[Event]) -> Answer:
        done.extend(event.id for event in events)
        return stage.succeed_together(events)

    stage.batch_script = together
    recording = Recording(stage)
    recording.done = done
    await publish(rig, named(20))
    await rig.bridge(BY_KEY | {"batch": 20})
    await eventually(lambda: len(done) == 60)
    assert any(len(batch) > 1 for batch in stage.batches)
    assert all(len({one[0] for one in batch}) == len(batch) for batch in stage.batches)
    for letter in KEYS:
        assert of_key(done, letter) == of_key(named(20), letter)


async def test_delayed_events_keep_their_order(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    recording = Recording(stage)
    await rig.bridge(BY_KEY | {"delay": "PT1H"})
    await publish(rig, ["a00", "a01", "b00"])

    async def are_parked() -> bool:
        return await rig.parked("stage") == 2

    await eventually(are_parked)
    assert await rig.redis.zcard(keys.held("stage", "in")) == 1
    assert not stage.received
    await rig.overdue("stage")
    await eventually(lambda: sorted(recording.done) == ["a00", "b00"])
    await eventually(lambda: rig.parked("stage"))
    await rig.overdue("stage")
    await eventually(lambda: recording.done[2:] == ["a01"])


async def test_order_by_the_partition_key_of_an_outside_receiver(rig: Rig) -> None:
    stage = await rig.stage("stage", "in")
    recording = Recording(stage)
    await rig.bridge({"order": True, "external": True})
    for one in named(5):
        extensions = {"partitionkey": one[0]}
        await rig.journal.publish(Event(id=one, source="/test", type="in", extensions=extensions))
    await eventually(lambda: len(recording.done) == 15)
    for letter in KEYS:
        assert of_key(recording.done, letter) == of_key(named(5), letter)
    assert not recording.together


async def test_thousands_of_events_of_one_key_wait_in_redis_and_not_in_the_bridge(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    go = asyncio.Event()

    async def hold(delivery: Delivery) -> Answer:
        if delivery.event.id == "0":
            await go.wait()
        return stage.succeed(delivery)

    stage.script = hold
    step = rig.redis.pipeline(transaction=False)
    for number in range(3000):
        event = Event(id=str(number), source="/test", type="in", data={"key": "one"})
        step.xadd(keys.journal("in"), {"event": event.to_json()})
    await step.execute()
    bridge = await rig.bridge(BY_KEY)

    async def are_held() -> bool:
        return await rig.redis.zcard(keys.held("stage", "in")) == 2999

    await eventually(are_held)
    (worker,) = bridge.workers
    assert len(worker.in_delivery) == 1
    await publish(rig, ["x"])
    await eventually(lambda: stage.count["x"] == 1)
    go.set()
    await eventually(lambda: stage.count["200"] == 1)
    assert stage.ids[:3] == ["0", "x", "1"]
    assert stage.most_on_wire == 2


async def test_key_of_an_entry_that_an_operator_deleted_is_unblocked(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    stage = await rig.stage("stage", "in", "out")
    recording = Recording(stage, {"a00": 1})
    first = await rig.bridge(BY_KEY | {"backoffDelay": "PT1H"})
    await publish(rig, ["a00", "a01"])
    await eventually(lambda: rig.parked("stage"))
    await rig.redis.delete(keys.parked("stage"))
    await rig.stop(first)
    await rig.bridge(BY_KEY)  # it looks when it starts, and then once a minute
    await eventually(lambda: recording.done == ["a01"])
    assert "outcome=unblocked keys=1" in caplog.text
