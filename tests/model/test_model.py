"""The search in a small size, and that it finds faults. `make model` does the whole."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import fields
from typing import Any

import pytest

from milepost.bridge.ingest.subscriber import Subscriber
from milepost.journal import Scripts, keys
from milepost.journal.admin import Admin
from milepost.journal.scripts import SCRIPTS, Text
from tests.model.broker import BrokerWorld
from tests.model.delivery import DeliveryWorld
from tests.model.search import FoundError, replay, search
from tests.model.switching import SwitchWorld
from tests.model.world import Move, ViolationError, World
from tests.model.worlds import LINE, SMALL, WHOLE, Make, adoptions, brokered, deliveries, ordered, switches

Open = Callable[[Make], World[Any]]


@pytest.fixture
async def opened(redis_url: str, redis: object) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        def opened(make: Make) -> World[Any]:
            world = make(redis_url)
            stack.push_async_callback(world.close)
            return world

        yield opened


@pytest.mark.parametrize("name", SMALL)
async def test_no_state_breaks_an_invariant(opened: Open, name: str) -> None:
    result = await search(opened(SMALL[name]))
    print(result)
    assert result.complete
    assert result.states > 20


FAULTS: dict[str, tuple[Make, str, str, str]] = {
    "no gate": (deliveries(LINE), "if known[entry] then", "if true then", "completed"),
    "no acknowledgement": (deliveries(LINE), "redis.call('XACK', stream, group, unpack(entries))", "", "completed"),
    "an event that is not announced": (
        deliveries(LINE),
        "if announce then publish_event(event, entry) end",
        "",
        "were to be announced",
    ),
    "an event that is announced twice": (
        deliveries(LINE),
        "if announce then publish_event(event, entry) end",
        "if announce then publish_event(event, entry) publish_event(event, entry) end",
        "were to be announced",
    ),
    "an answer that is not announced, of several": (
        deliveries(LINE, answers=2, bridges=1),
        "for i, answer in ipairs(answers) do publish_event(answer, added[i][2]) end",
        "publish_event(answers[1], added[1][2])",
        "were to be announced",
    ),
    "an answer that is announced when another is refused": (
        deliveries(LINE, channels=2, answers=2, bridges=1, refusals=True),
        "check_channels()\n  for i",
        "for i",
        "were to be announced",
    ),
    "an answer that the Broker brings and nobody hears of": (
        brokered(bridges=1),
        "redis.call('PUBLISH', channel, event)",
        "",
        "were to be announced",
    ),
    "a dead bridge that is removed with its events": (
        deliveries(LINE, crashes=1),
        "other.pending == 0 and ",
        "",
        "no place",
    ),
    "a retry that nobody reads any more": (
        deliveries(LINE, moves=1, parks=1, bridges=1),
        "then attempt(bury_abandoned, name, retries) end",
        "then end",
        "cannot reach the end",
    ),
    "a parked event that nobody would read": (
        deliveries(LINE, moves=1, parks=1, bridges=1),
        "and not consumes(stages_table[stage], channel) then",
        "and false then",
        "among retries that no bridge reads",
    ),
    "no dedup": (deliveries(LINE, duplicates=1), "'NX', 'PX', dedup", "'PX', dedup", "duplicate was accepted"),
    "a status that stays": (deliveries(LINE), "redis.call('PEXPIRE', status, time)", "", "neither counts nor expires"),
    "a parked event that stays": (
        deliveries(LINE, parks=1),
        "redis.call('ZREM', parked_key(stage), member)",
        "",
        "'parked', 'retries'|'retries', 'parked'",
    ),
    "a dead letter that stays": (
        deliveries(LINE, burials=1, replays=1),
        "redis.call('XDEL', dead, letter.entry)",
        "",
        "'retries', 'dead'",
    ),
    "a trim behind a pending entry": (
        deliveries(LINE, events=2),
        "if not pending[row[1]] then",
        "if true then",
        "pending in .* without a body",
    ),
    "a hop that a full server refuses": (
        deliveries(LINE, refusals=True),
        "write_when_full()\nlocal channels, steps = {}, {}",
        "local channels, steps = {}, {}",
        "full server",
    ),
    "a reply that stays when it cannot be announced": (
        deliveries(LINE, refusals=True),
        "redis.call('XDEL', journal_key(event.channel), entry)",
        "",
        "was refused, and is .*journal",
    ),
    "answers of which one stays when another is refused": (
        deliveries(LINE, answers=2, bridges=1, refusals=True),
        "for _, one in ipairs(added) do redis.call('XDEL', one[1], one[2]) end",
        "",
        "half done|was refused, and is .*journal|replies exist",
    ),
    "an answer too few": (
        deliveries(LINE, answers=2),
        "for _, answer in ipairs(answers) do\n    added",
        "for _, answer in ipairs({ answers[2], answers[2] }) do\n    added",
        "replies exist",
    ),
    "a forgotten stage that keeps its group": (
        deliveries(LINE, forgets=1, bridges=1),
        "redis.pcall('XGROUP', 'DESTROY', journal_key(channel), stage)\n",
        "0\n",
        "is forgotten, and|left behind",
    ),
    "an answer that the Broker brings again": (
        brokered(repeats=1, bridges=1),
        "'NX', 'PX', dedup",
        "'PX', dedup",
        "announced twice",
    ),
    "an event that the Broker gives up again": (
        brokered(gives_up=1, repeats=1, bridges=1),
        "if fields.event == event and fields.channel == channel then return end",
        "",
        "'dead letter of a', 'dead letter of a'",
    ),
    "order: a key that is not looked up": (
        ordered("xx", bridges=1),
        "do places[unknown[i]] = place end",
        "do places[unknown[i]] = false end",
        "in hand together|said to be in hand",
    ),
    "order: two events of a key in one page": (
        ordered("xx", reads=2, bridges=1),
        "places[key] = place",
        "",
        "in hand together|said to be in hand",
    ),
    "order: a retry that nobody reads any more and that keeps its key": (
        ordered("xx", moves=1, parks=1, bridges=1),
        "if fields.order then unblock_all(",
        "if false then unblock_all(",
        "said to be in hand|keys are said to be",
    ),
    "order: a wait that looks too far ahead": (
        ordered("xx", reads=2, bridges=1),
        "return { retried, other, plain, last_read(retries), last_read(journal) }",
        "return { retried, other, plain, last_read(retries), '9999999999999-0' }",
        "a bridge waits",
    ),
    "order: a held event that stays pending": (
        ordered("xx", bridges=1),
        "if #finished > 0 then redis.call('XACK', journal, stage, unpack(finished)) end",
        "",
        "'journal', 'held'|said to be in hand",
    ),
    "order: a place that is not forgotten": (
        ordered("x", bridges=1),
        "ordered.gone[#ordered.gone + 1] = ordered.letter .. entry",
        "ordered.gone[1] = 'x'",
        "said to be in hand",
    ),
    "order: a key that is not unblocked": (
        ordered("xx", bridges=1),
        "if not row.kept then ordered",
        "if false then freed",
        "said to be in hand|keys are said to be",
    ),
    "order: a dead letter that keeps its key": (
        ordered("xx", burials=1, bridges=1),
        "bury(stage, row)\n  return 'buried'",
        "bury(stage, row)\n  row.kept = true\n  return 'buried'",
        "said to be in hand|keys are said to be",
    ),
    "order: a parked event that lets the next go": (
        ordered("xx", parks=1, bridges=1),
        "row.kept = true\n  note",
        "note",
        "in hand together|none is in hand|said to be in hand|keys are said to be",
    ),
    "order: the latest of a key first": (
        ordered("xxx", bridges=1),
        "'ZRANGEBYLEX', held, '[' .. key .. '/', '(' .. key .. '0'",
        "'ZREVRANGEBYLEX', held, '(' .. key .. '0', '[' .. key .. '/'",
        "is in hand before",
    ),
    "order: a replay beside its key": (
        ordered("xx", burials=1, replays=1, bridges=1),
        "if not redis.call('HGET', in_hand_key(stage, letter.channel), key) then unblock",
        "if true then unblock",
        "said to be in hand",
    ),
    "a delayed event that comes before its time": (
        deliveries(LINE, delays=1, bridges=1),
        "if row.reason == '' and due <= now() then",
        "if row.reason == '' then",
        "waits a day",
    ),
    "a settlement of an entry that a failover took back": (
        deliveries(LINE, failovers=1, bridges=1),
        "if known[entry] then",
        "if known[entry] or not redis.call('XRANGE', row.stream, entry, entry)[1] then",
        "e0 was refused",
    ),
    "a switch from the beginning": (
        switches("a", stops=1),
        "positions[channel] or '0'",
        "'0'",
        "completed by",
    ),
    "a frozen bridge that makes its groups again": (
        switches("a", stops=1, crashes=1),
        "if (name == broker) ~= (stage == broker) then return true end",
        "",
        "Depth.* where \\[\\] are|completed by no one, and in .*a: journal.*broker: journal",
    ),
    "a switch that leaves held events behind": (
        switches("a", events=2, keys=("x", "x"), stops=1),
        "unless_gone('ZRANGE', held_key(name, channel), 0, -1)",
        "unless_gone('ZRANGE', held_key(name, channel), 1, 0)",
        "completed by no one, and in \\[\\]",
    ),
    "a switch that leaves keys in hand": (
        switches("a", events=2, keys=("x", "x"), stops=1),
        "held_key(name, channel), in_hand_key(name, channel))",
        "held_key(name, channel))",
        "switched away from, and has .*inhand",
    ),
    "a switch of a paused stage": (
        switches("a", pauses=1, stops=1),
        "if unless_gone('SISMEMBER', PAUSED, name) == 1 then",
        "if false then",
        "switched away from, and has .*a pause",
    ),
    "a switch whose retries do not count": (
        switches("a", stops=1),
        "redis.call('HSET', STAGES, name, '{\"consumes\":' .. cjson.encode(channels)",
        "redis.call('HSET', STAGES, name, '{\"consumes\":[]'",
        "the backlog is",
    ),
    "a lease that stays": (
        adoptions(0, bridges=1),
        "redis.call('SET', LEASE, token, 'PX', ttl)",
        "redis.call('SET', LEASE, token)",
        "neither counts nor expires",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_search_finds_a_fault_in_the_scripts(opened: Open, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make, text, instead, fault = FAULTS[name]
    assert any(text in script for script in SCRIPTS.values())

    async def broken(self: Scripts, _: str, script: str, arguments: Iterable[Text]) -> object:
        return await self.call("EVAL", script.replace(text, instead), 1, keys.JOURNALS, *arguments)

    monkeypatch.setattr(Scripts, "run", broken)
    with pytest.raises(FoundError, match=fault) as found:
        await search(opened(make))
    assert len(found.value.path) <= 12


async def test_violation_is_replayed_by_its_program(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that a violation prints makes its moves on a server of its own, and meets it again."""

    async def completed_twice(world: DeliveryWorld, local: Any, bridge: int, number: int) -> None:
        local.done["a", "e0"] += 1
        await complete(world, local, bridge, number)

    complete = DeliveryWorld.do_complete
    monkeypatch.setattr(DeliveryWorld, "do_complete", completed_twice)
    with pytest.raises(FoundError) as found:
        await search(opened(deliveries(LINE)))
    assert found.value.path == [("publish", 0), ("read", 0, "a"), ("complete", 0, 0)]
    program: dict[str, Any] = {"__name__": "program"}
    exec(found.value.script, program)  # noqa: S102 - it is ours
    with pytest.raises(ViolationError, match="completed"):
        await replay(opened(program["world"]), program["PATH"])


async def test_search_finds_an_event_that_nothing_moves_on(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without takeovers an event of a crashed bridge stays where it is."""

    async def nothing(_: DeliveryWorld, *__: object) -> None:
        return

    monkeypatch.setattr(DeliveryWorld, "do_take_over", nothing)
    with pytest.raises(FoundError, match="cannot reach the end"):
        await search(opened(deliveries(LINE, crashes=1)))


async def test_bridge_that_stops_waits_for_its_release_and_not_for_an_older_token(opened: Open) -> None:
    """It led, another did, and it leads again when the other's token arrives."""
    path: list[Move] = [("lease", 0), ("deliver", 0), ("deliver", 1), ("expire",), ("lease", 1), ("expire",)]
    path += [("lease", 0), ("publish",), ("stop", 0), ("deliver", 0)]
    after: list[Any] = []
    await replay(opened(adoptions(0, expiries=2, stops=1, tokens=2)), path, tell=lambda _, local: after.append(local))
    assert after[-1].bridges[0].waits


async def test_search_finds_a_lease_that_is_not_released(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge that stops between taking the lease and receiving its announcement releases it too."""
    release = Subscriber.release_lease

    async def only_if_leading(self: Subscriber) -> None:
        if self.leading:
            await release(self)

    monkeypatch.setattr(Subscriber, "release_lease", only_if_leading)
    with pytest.raises(FoundError, match="cannot reach the end"):
        await search(opened(adoptions(0, stops=1, bridges=1)))


async def test_search_finds_an_event_that_is_lost_with_the_leader(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 5 of subscriber.py: every bridge tries to adopt a CloudEvent, also one that knows another as the leader."""
    sort = Subscriber._sort

    def unless_another_leads(self: Subscriber, channel: str, message: bytes) -> None:
        if self.leading or not self._leader or channel == keys.LEASE:
            sort(self, channel, message)

    monkeypatch.setattr(Subscriber, "_sort", unless_another_leads)
    with pytest.raises(FoundError, match="cannot reach the end"):
        await search(opened(adoptions(2, crashes=1)))


async def test_search_finds_an_event_that_is_lost_with_the_connection(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bridge keeps the messages that it has received and not adopted."""
    follow = Subscriber._follow

    def forget(self: Subscriber, leader: str | None) -> None:
        follow(self, leader)
        if leader is None:
            self._adopter._buffer.clear()

    monkeypatch.setattr(Subscriber, "_follow", forget)
    with pytest.raises(FoundError, match="cannot reach the end"):
        await search(opened(adoptions(2, disconnections=1, bridges=1)))


async def test_search_finds_a_dead_letter_that_is_dropped_and_stays(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_: Admin, *__: object) -> int:
        return 0

    monkeypatch.setattr(Admin, "drop", nothing)
    with pytest.raises(FoundError, match="'dead', 'dropped'"):
        await search(opened(deliveries(LINE, burials=1, drops=1, bridges=1)))


NOT_IN_EITHER = {"keys", "rollouts", "answers", "channels", "forgets", "deletions", "reads", "moves", "absences"}
NOT_IN_EITHER |= {"limit", "times"}
NOT_SEARCHED: dict[type[World[Any]], set[str]] = {
    SwitchWorld: NOT_IN_EITHER - {"keys"} | {"drops", "bridges"},
    BrokerWorld: NOT_IN_EITHER | {"burials", "lost_answers", "duplicates", "pauses", "delays", "failovers"},
}
"""Bounds that these worlds have from the deliveries, whose worlds alone search them."""


def test_whole_search_has_every_act_in_each_kind_of_world() -> None:
    acts: dict[type[World[Any]], set[str]] = {}
    every: dict[type[World[Any]], set[str]] = {}
    for make in WHOLE.values():
        world: Any = make("redis://localhost:1")
        set_here = {field.name for field in fields(world.bounds) if getattr(world.bounds, field.name) != field.default}
        acts.setdefault(type(world), set()).update(set_here)
        every[type(world)] = {field.name for field in fields(world.bounds)}
    assert acts == {kind: bounds - NOT_SEARCHED.get(kind, set()) for kind, bounds in every.items()}
