"""Random steps of two consumers of each of two stages: every stage completes every event once, and none is lost.

The machine remembers no more than a bridge would: the entries that each consumer has claimed. Several may have one,
after a takeover; the first of them to settle it wins.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis, from_url

from milepost.events.event import Event
from milepost.journal import Bury, Complete, Consumer, Delay, Entry, Journal, Park, Wiring, keys
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.journal.events import (
    CALCULATED,
    RAW,
    assert_bounded,
    event_of,
    failure,
    maintenance_of,
    reply_to,
    settled,
    submission,
)

NAMES = st.sampled_from(["distance", "audit"])
SIDES = st.sampled_from([0, 1])
PICK = st.integers(0, 1_000)

SHORT_CLAIM = 0.001
"""Seconds."""


class Bridges(RuleBasedStateMachine):
    """Two bridges, each with a consumer of `distance`, which replies, and one of `audit`, which does not."""

    redis_url: str
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        given = JournalSettings.read(redis_url=self.redis_url)
        self.redis: Redis = from_url(self.redis_url)
        self.journal = Journal(connect(given), given)
        self.maintenance = maintenance_of(self.journal, given)
        self.deadline = given.deadline
        self.published: list[Event] = []
        self.completed: dict[str, Counter[str]] = {"distance": Counter(), "audit": Counter()}
        self.made = 0
        self.held: dict[Consumer, dict[tuple[str, str], Entry]] = {}
        self.consumers = {name: [self.consumer(name), self.consumer(name)] for name in self.completed}
        self.do(self.redis.flushall())
        wired = {"distance": Wiring([RAW], [CALCULATED], ""), "audit": Wiring([RAW], [], "")}
        self.do(self.maintenance.beat({**wired, "store": Wiring([CALCULATED], [], "")}))
        for sides in self.consumers.values():
            self.do(sides[0].ensure())

    def do(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(call)

    def consumer(self, name: str) -> Consumer:
        self.made += 1
        consumer = Consumer(
            name,
            RAW,
            f"consumer-{self.made}",
            reader=self.journal.scripts.connection,
            scripts=self.journal.scripts,
            deadline=self.deadline,
        )
        self.held[consumer] = {}
        return consumer

    def pick(self, consumer: Consumer, number: int) -> Entry | None:
        held = list(self.held[consumer].values())
        return held[number % len(held)] if held else None

    def read(self, consumer: Consumer, count: int) -> None:
        entries = self.do(consumer.take(count))
        assert self.held[consumer].keys().isdisjoint(entry.key for entry in entries)
        self.held[consumer] |= {entry.key: entry for entry in entries}

    def take_up(self, consumer: Consumer, count: int) -> None:
        taken = self.do(consumer.take_over(count, claim=SHORT_CLAIM))
        assert taken.destroyed == 0
        self.held[consumer] |= {entry.key: entry for entry in taken.entries}

    def complete(self, consumer: Consumer, entry: Entry) -> None:
        event = event_of(entry)
        reply = reply_to(event) if consumer.stage == "distance" else None
        if self.do(settled(consumer, Complete(entry, event.id, reply))) == "done":
            self.completed[consumer.stage][event.id] += 1
        del self.held[consumer][entry.key]

    @rule()
    def publish(self) -> None:
        self.published.append(submission())
        assert self.do(self.journal.publish(self.published[-1])) is True

    @precondition(lambda self: self.published)
    @rule(number=PICK)
    def publish_again(self, number: int) -> None:
        assert self.do(self.journal.publish(self.published[number % len(self.published)])) is False

    @rule(name=NAMES, side=SIDES, count=st.integers(1, 3))
    def take(self, name: str, side: int, count: int) -> None:
        self.read(self.consumers[name][side], count)

    @rule(name=NAMES, side=SIDES, count=st.integers(1, 4))
    def take_over(self, name: str, side: int, count: int) -> None:
        """Take over entries that the other consumer holds all the same: it was only slow."""
        self.take_up(self.consumers[name][side], count)

    @rule(name=NAMES, side=SIDES, number=PICK)
    def succeed(self, name: str, side: int, number: int) -> None:
        consumer = self.consumers[name][side]
        if entry := self.pick(consumer, number):
            self.complete(consumer, entry)

    @rule(name=NAMES, side=SIDES, number=PICK, how=st.sampled_from(["park", "bury", "delay"]))
    def put_off(self, name: str, side: int, number: int, how: str) -> None:
        consumer = self.consumers[name][side]
        if entry := self.pick(consumer, number):
            told, of = failure(attempts=entry.attempts + 1), event_of(entry).id
            settlements = {
                "park": Park(entry, of, told, 0),
                "bury": Bury(entry, of, told),
                "delay": Delay(entry, of, 0),
            }
            self.do(settled(consumer, settlements[how]))
            del self.held[consumer][entry.key]

    @rule(name=NAMES, most=st.integers(1, 5))
    def retry_due(self, name: str, most: int) -> None:
        assert self.do(self.maintenance.retry_due([name], most=most))[2] == {}

    @rule(name=NAMES)
    def replay(self, name: str) -> None:
        dead = self.do(self.journal.admin.dead_letters(name))
        assert self.do(self.journal.admin.replay(name, [letter.entry for letter in dead])) == len(dead)

    @rule(name=NAMES, side=SIDES)
    def reread(self, name: str, side: int) -> None:
        consumer = self.consumers[name][side]
        self.held[consumer] = {entry.key: entry for entry in self.do(consumer.reread())}

    @rule(name=NAMES, side=SIDES)
    def renew(self, name: str, side: int) -> None:
        consumer = self.consumers[name][side]
        for entry in self.do(consumer.renew(list(self.held[consumer].values()))):
            del self.held[consumer][entry.key]

    @rule(name=NAMES, side=SIDES)
    def crash(self, name: str, side: int) -> None:
        """A bridge that dies forgets its claims, and starts again under another name."""
        self.consumers[name][side] = self.consumer(name)

    @rule(name=NAMES, side=SIDES)
    def hand_back_and_reap(self, name: str, side: int) -> None:
        consumer = self.consumers[name][side]
        self.do(consumer.hand_back(claim=SHORT_CLAIM))
        self.held[consumer].clear()
        self.do(self.consumers[name][1 - side].reap(idle=0))

    @rule()
    def trim(self) -> None:
        assert self.do(self.maintenance.trim(RAW))[0] == "trimmed"

    @invariant()
    def nothing_is_completed_twice(self) -> None:
        assert not [done for done in self.completed.values() if any(count > 1 for count in done.values())]

    def teardown(self) -> None:
        """Let both stages finish all events there are, then check that none is missing and nothing else is left."""
        try:
            for sides in self.consumers.values():
                self.drain(sides[0])
            everyone = Counter({event.id: 1 for event in self.published})
            assert self.completed == {"distance": everyone, "audit": everyone}
            replies = [
                Event.from_json(row[b"event"]) for _, row in self.do(self.redis.xrange(keys.journal(CALCULATED)))
            ]
            assert Counter(reply.id for reply in replies) == everyone
            self.trim()
            assert self.do(self.redis.xlen(keys.journal(RAW))) == 0
            assert self.do(self.journal.backlog()) == len(self.published)
            if self.published:
                self.do(self.maintenance.trim(CALCULATED))  # makes the group of `store`
            self.do(assert_bounded(self.redis))
        finally:
            self.do(self.journal.close())
            self.do(self.redis.aclose())

    def drain(self, consumer: Consumer) -> None:
        for _ in range(10):
            self.retry_due(consumer.stage, 1_000)
            self.replay(consumer.stage)
            self.held[consumer].clear()
            self.do(asyncio.sleep(2 * SHORT_CLAIM))  # no consumer has renewed its entries since
            self.take_up(consumer, 1_000)
            self.read(consumer, 1_000)
            if not self.held[consumer]:
                return
            for entry in list(self.held[consumer].values()):
                self.complete(consumer, entry)
        raise AssertionError(f"{consumer.stage} never ends")


@pytest.fixture
async def bridges(redis: Redis, redis_url: str) -> AsyncIterator[type[Bridges]]:
    """On a server that does not wait for its disk meanwhile: no machine dies here, and there are many steps."""
    await redis.config_set("appendfsync", "everysec")
    yield type("Bridges", (Bridges,), {"redis_url": redis_url})
    await redis.config_set("appendfsync", "always")


def test_every_event_is_completed_once_by_each_stage_and_none_is_lost(bridges: type[Bridges]) -> None:
    with asyncio.Runner() as runner:
        bridges.runner = runner
        run_state_machine_as_test(
            bridges,
            settings=settings(
                max_examples=15,
                stateful_step_count=50,
                deadline=None,
                database=None,
                phases=[Phase.explicit, Phase.generate, Phase.shrink],
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
