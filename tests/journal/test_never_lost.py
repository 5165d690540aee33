"""Whatever two consumers of two groups do, in whatever order: every event is completed once per group, none is lost.

The machine remembers only what a bridge would: which entries each consumer holds. An entry may be in the hands of
several at once, after a takeover; the first of them to settle it wins.
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

from milepost import keys
from milepost.connection import connect
from milepost.events.event import Event
from milepost.journal import Bury, Complete, Entry, Group, Journal, Park, Upkeep, Wiring
from milepost.settings import JournalSettings
from tests.journal.events import CALCULATED, RAW, READY, letter, reply_to, submission

START = "0-0"
NAMES = st.sampled_from(["distance", "audit"])
SIDES = st.sampled_from([0, 1])
PICK = st.integers(0, 1_000)


class Bridges(RuleBasedStateMachine):
    """Two bridges, each with a consumer in the groups `distance`, which replies, and `audit`, which does not."""

    redis_url: str
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        given = JournalSettings.read(redis_url=self.redis_url)
        self.redis: Redis = from_url(self.redis_url)
        self.journal = Journal(connect(given), given)
        self.upkeep = Upkeep(self.journal.scripts, self.journal.keeping)
        self.deadline = given.deadline
        self.published: list[Event] = []
        self.completed: dict[str, Counter[str]] = {"distance": Counter(), "audit": Counter()}
        self.consumers = 0
        self.held: dict[Group, dict[str, Entry]] = {}
        self.groups = {name: [self.consumer(name), self.consumer(name)] for name in self.completed}
        self.do(self.redis.flushall())
        wired = {"distance": Wiring([RAW], [CALCULATED], ""), "audit": Wiring([RAW], [], "")}
        self.do(self.upkeep.beat({**wired, "store": Wiring([CALCULATED], [], "")}))
        for sides in self.groups.values():
            self.do(sides[0].ensure())

    def do(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(call)

    def consumer(self, name: str) -> Group:
        self.consumers += 1
        group = Group(
            RAW,
            name,
            f"consumer-{self.consumers}",
            reader=self.journal.scripts.line,
            scripts=self.journal.scripts,
            keeping=self.journal.keeping,
            deadline=self.deadline,
        )
        self.held[group] = {}
        return group

    def pick(self, group: Group, number: int) -> Entry | None:
        held = list(self.held[group].values())
        return held[number % len(held)] if held else None

    def take(self, group: Group, entries: list[Entry]) -> None:
        for entry in entries:
            assert entry.id not in self.held[group]
            if entry.only in {"", group.name}:
                self.held[group][entry.id] = entry
            else:
                assert self.do(group.settle(Complete(entry, None))) == "done"

    def unread(self, group: Group, count: int) -> list[Entry]:
        """Reads only where there is something to read: Redis looks ten times a second who has waited long enough."""
        last = self.do(self.redis.xinfo_stream(keys.journal(RAW)))["last-generated-id"]
        rows = self.do(self.redis.xinfo_groups(keys.journal(RAW)))
        if any(row["name"] == group.name.encode() and row["last-delivered-id"] == last for row in rows):
            return []
        return self.do(group.read(count, block=READY)) or []

    def complete(self, group: Group, entry: Entry) -> None:
        event = Event.from_json(entry.event)
        reply = reply_to(event) if group.name == "distance" else None
        if self.do(group.settle(Complete(entry, reply))) == "done":
            self.completed[group.name][event.id] += 1
        del self.held[group][entry.id]

    @rule()
    def publish(self) -> None:
        self.published.append(submission())
        assert self.do(self.journal.publish(self.published[-1])) is True

    @precondition(lambda self: self.published)
    @rule(number=PICK)
    def publish_again(self, number: int) -> None:
        assert self.do(self.journal.publish(self.published[number % len(self.published)])) is False

    @rule(name=NAMES, side=SIDES, count=st.integers(1, 3))
    def read(self, name: str, side: int, count: int) -> None:
        group = self.groups[name][side]
        self.take(group, self.unread(group, count))

    @rule(name=NAMES, side=SIDES, number=PICK)
    def settle_well(self, name: str, side: int, number: int) -> None:
        group = self.groups[name][side]
        if entry := self.pick(group, number):
            self.complete(group, entry)

    @rule(name=NAMES, side=SIDES, number=PICK, bury=st.booleans())
    def settle_badly(self, name: str, side: int, number: int, *, bury: bool) -> None:
        group = self.groups[name][side]
        if entry := self.pick(group, number):
            told = letter(Event.from_json(entry.event), attempts=entry.attempts + 1)
            self.do(group.settle(Bury(entry, told) if bury else Park(entry, told, 0)))
            del self.held[group][entry.id]

    @rule(name=NAMES, most=st.integers(1, 5))
    def wake(self, name: str, most: int) -> None:
        self.do(self.upkeep.wake([name], most=most))

    @rule(name=NAMES)
    def replay(self, name: str) -> None:
        dead = self.do(self.journal.dead_letters(name))
        assert self.do(self.journal.replay(name, [letter.entry for letter in dead])) == len(dead)

    @rule(name=NAMES, side=SIDES, count=st.integers(1, 4))
    def take_over(self, name: str, side: int, count: int) -> None:
        group = self.groups[name][side]
        _, entries, destroyed = self.do(group.takeover(count, claim=0, held=self.held[group], cursor=START))
        assert destroyed == 0
        self.take(group, entries)

    @rule(name=NAMES, side=SIDES)
    def renew(self, name: str, side: int) -> None:
        group = self.groups[name][side]
        for lost in self.do(group.renew(list(self.held[group]))):
            del self.held[group][lost]

    @rule(name=NAMES, side=SIDES)
    def crash(self, name: str, side: int) -> None:
        """A bridge that dies forgets what it held, and starts again under another name."""
        self.groups[name][side] = self.consumer(name)

    @rule(name=NAMES, side=SIDES)
    def hand_back_and_reap(self, name: str, side: int) -> None:
        group = self.groups[name][side]
        self.do(group.hand_back(claim=0.001))
        self.held[group].clear()
        self.do(self.groups[name][1 - side].reap(idle=-1))

    @rule()
    def trim(self) -> None:
        assert self.do(self.upkeep.trim(RAW))[0] == "trimmed"

    @invariant()
    def nothing_is_completed_twice(self) -> None:
        assert not [done for done in self.completed.values() if any(count > 1 for count in done.values())]

    def teardown(self) -> None:
        """Let both groups finish all there is, then look that it is all there was."""
        try:
            # Twice: what one group has woken, the other must acknowledge unseen.
            for sides in [*self.groups.values()] * 2:
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
        finally:
            self.do(self.journal.close())
            self.do(self.redis.aclose())

    def drain(self, group: Group) -> None:
        for _ in range(10):
            self.wake(group.name, 1_000)
            self.replay(group.name)
            self.held[group].clear()
            _, entries, _ = self.do(group.takeover(1_000, claim=0, held=[], cursor=START))
            self.take(group, entries + self.unread(group, 1_000))
            if not self.held[group]:
                return
            for entry in list(self.held[group].values()):
                self.complete(group, entry)
        raise AssertionError(f"{group.name} never ends")


@pytest.fixture
async def bridges(redis: Redis, redis_url: str) -> AsyncIterator[type[Bridges]]:
    """On a server that does not wait for its disk meanwhile: no machine dies here, and there are many steps."""
    await redis.config_set("appendfsync", "everysec")
    yield type("Bridges", (Bridges,), {"redis_url": redis_url})
    await redis.config_set("appendfsync", "always")


def test_every_event_is_completed_once_per_group_and_nothing_is_lost(bridges: type[Bridges]) -> None:
    with asyncio.Runner() as runner:
        bridges.runner = runner
        run_state_machine_as_test(
            bridges,
            settings=settings(
                max_examples=50,
                stateful_step_count=60,
                deadline=None,
                database=None,
                phases=[Phase.explicit, Phase.generate, Phase.shrink],
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
