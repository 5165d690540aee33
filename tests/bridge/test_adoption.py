"""Adoption: each message of another program is journaled once, whichever bridge leads."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis.asyncio as redis_asyncio

from milepost.bridge import bridge as bridge_module
from milepost.bridge.bridge import Bridge
from milepost.bridge.ingest import adopter, subscriber
from milepost.errors import JournalUnavailable
from milepost.events.event import Event
from milepost.journal import Wiring, keys
from milepost.journal.subscription import Message, Subscription
from tests.bridge.rig import Rig, Stage, ended, value
from tests.bridge.test_takeover import silence
from tests.servers import WITHIN, Module, eventually


def leading(*bridges: Bridge) -> list[Bridge]:
    return [bridge for bridge in bridges if value(bridge, "leading")]


def subscribed_to(bridge: Bridge, channel: str) -> bool:
    return channel in bridge._subscriber._confirmed


async def a_leader(*bridges: Bridge) -> Bridge:
    await eventually(lambda: len(leading(*bridges)) == 1, what="one leader")
    return leading(*bridges)[0]


async def lease_is_renewed(rig: Rig) -> None:
    """Wait until the leader has renewed its lease, which is of ten seconds at most."""
    await rig.redis.pexpire(keys.LEASE, 60_000)

    async def renewed() -> bool:
        return 0 < await rig.redis.pttl(keys.LEASE) <= 10_000

    await eventually(renewed)


def cloud_event(id: str, channel: str = "in", data: Any = None) -> str:
    return Event(id=id, source="/foreign", type=channel, data=data).to_json()


def data_of(stage: Stage) -> list[Any]:
    return [event.data for event in stage.received]


async def test_ready_bridge_receives_every_message_from_then_on(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    for number in range(3):
        process = await rig.running()
        await rig.redis.publish("in", f"{number}")
        await eventually(lambda: number in data_of(stage))
        process.kill()
        await rig.redis.delete(keys.LEASE)


@pytest.mark.parametrize(
    ("message", "data"),
    [
        ('{"email":"a@b.co","lat":"1.5","long":"2"}', {"email": "a@b.co", "lat": "1.5", "long": "2"}),
        ("someone@example.org", "someone@example.org"),
        ('"someone@example.org"', "someone@example.org"),
        ("null", None),
        ("17.25", 17.25),
        ("true", True),
        ("[]", []),
        ("\ufeff someone@example.org\r\n", "someone@example.org"),
        ('\ufeff{"lat":1.5}', {"lat": 1.5}),
        ("", ""),
        ("Zoë ☃", "Zoë ☃"),
        ("2216.0742916592476", 2216.0742916592476),
    ],
)
async def test_plain_message_runs_once_with_two_bridges(rig: Rig, message: str, data: Any) -> None:
    stage = await rig.stage("stage", "in", "out")
    bridges = [await rig.bridge(), await rig.bridge()]
    await a_leader(*bridges)
    await rig.redis.publish("in", message)
    await rig.redis.publish("in", '"last"')
    await eventually(lambda: len(stage.received) == 2)
    await eventually(lambda: rig.settled(stage))
    first = next(event for event in stage.received if event.data != "last")
    assert first.data == data
    assert type(first.data) is type(data)
    assert first.source == "/redis/in"
    assert first.type == "in"
    assert first.time
    await eventually(lambda: sum(value(each, "adopted_total", channel="in", outcome="done") for each in bridges) == 2)


async def test_cloud_event_runs_once_with_two_bridges_and_keeps_its_id(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    bridges = [await rig.bridge(), await rig.bridge()]
    await rig.redis.publish("in", cloud_event("mine", data={"n": 1}))
    await eventually(lambda: stage.count["mine"])

    def adopted() -> bool:
        counts = [
            value(bridge, "adopted_total", channel="in", outcome=o) for bridge in bridges for o in ("done", "seen")
        ]
        return sum(counts) == 2

    await eventually(adopted, what="looked at by both")
    await eventually(lambda: rig.settled(stage))
    assert stage.count["mine"] == 1
    assert stage.received[0].source == "/foreign"


async def test_bridge_that_was_cut_off_from_redis_knows_the_leader_at_once(rig: Rig) -> None:
    """Else it would count all the time until the next change of leader, hours later, as time without one."""
    await rig.stage("stage", "in", "out")
    await a_leader(await rig.bridge())
    before = {client["id"] for client in await rig.redis.client_list("pubsub")}
    follower = await rig.bridge()
    (own,) = [client["id"] for client in await rig.redis.client_list("pubsub") if client["id"] not in before]
    await rig.redis.client_kill_filter(_id=own)
    await eventually(lambda: value(follower, "leaderless_seconds_total") > 0, what="it knew no leader for a moment")


async def test_time_since_a_dead_leader_may_have_ended_counts_as_time_without_a_leader(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    stage = await rig.stage("stage", "in", "out")
    bridge = Bridge(rig.settings(lease="PT3S"))

    async def knows_another_leader() -> bool:
        await rig.redis.set(keys.LEASE, "0" * 32, px=25_000)
        return bridge.ready

    await knows_another_leader()
    rig.start(bridge)
    await eventually(knows_another_leader)
    await rig.redis.delete(keys.LEASE)
    await a_leader(bridge)
    assert value(bridge, "leaderless_seconds_total") == pytest.approx(3 * 1.3, rel=0.01)
    assert "outcome=leader-known-again seconds=3.9" in caplog.text
    await rig.redis.publish(keys.LEASE, "")  # a release
    await rig.redis.publish("in", cloud_event("1"))
    await eventually(lambda: stage.count["1"])
    assert value(bridge, "leaderless_seconds_total") == pytest.approx(3 * 1.3, rel=0.01), "it counts once"


async def test_clean_stop_of_the_leader_counts_as_no_time_without_a_leader(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.stage("stage", "in", "out")
    first = await rig.bridge(lease="PT1H")
    await a_leader(first)
    second = await rig.bridge(lease="PT1H")
    await rig.stop(first)
    await a_leader(second)  # at once, and not at its next try, after 0.3 of the lease
    assert value(second, "leaderless_seconds_total") == 0
    assert "left-unadopted" not in caplog.text, "a leader waits for its own release, which comes at once"


async def test_events_that_a_bridge_published_are_not_adopted(rig: Rig) -> None:
    first = await rig.stage("first", "in", "middle")
    second = await rig.stage("second", "middle", "out")
    bridge = await rig.bridge()
    await a_leader(bridge)
    await rig.publish("in", "1")
    await eventually(lambda: second.count["1"])
    await rig.redis.publish("in", "2")
    await eventually(lambda: len(second.received) == 2)
    await eventually(lambda: value(bridge, "adopted_total", channel="in", outcome="done") == 1)
    assert value(bridge, "adopted_total", channel="middle", outcome="done") == 0
    assert first.count["1"] == second.count["1"] == 1


async def test_leader_adopts_for_every_stage_that_some_bridge_serves(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """As while an upgrade adds a stage: the old bridge leads, the new one alone serves the new channel."""
    old = await rig.stage("old", "in", "out")
    leader = await rig.bridge()
    await a_leader(leader)
    new = await rig.stage("new", "more")
    added = await rig.bridge(routes=[old.route(), new.route()])
    await eventually(lambda: subscribed_to(leader, "more"), what="the leader subscribed, long before its next beat")
    await rig.redis.publish("more", '"plain"')
    await eventually(lambda: data_of(new) == ["plain"])
    assert leading(leader, added) == [leader]
    await eventually(lambda: value(leader, "adopted_total", channel="more", outcome="done") == 1)

    async def subscriptions() -> int:
        return int((await rig.redis.info("commandstats"))["cmdstat_subscribe"]["calls"])

    before = await subscriptions()
    await added._beat()
    await rig.redis.publish("more", '"again"')
    await eventually(lambda: data_of(new) == ["plain", "again"])
    assert await subscriptions() == before, "a beat that changes nothing makes no subscription"
    await rig.stop(added)
    assert "left-unadopted" not in caplog.text, "a bridge that does not lead has nothing to wait for"
    await silence(rig, "new")
    await leader._beat()
    await eventually(lambda: not subscribed_to(leader, "more"))


async def test_leader_renews_its_lease_after_it_has_subscribed_to_a_further_channel(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "RENEWED", 0.01)
    await rig.stage("stage", "in")
    leader = await rig.bridge()
    await a_leader(leader)
    await leader.maintenance.beat({"other": Wiring(["more"], [], "http://127.0.0.1:1")})
    await eventually(lambda: subscribed_to(leader, "more"))
    await lease_is_renewed(rig)


async def test_lease_that_cannot_be_renewed_is_logged_each_time_that_this_begins(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subscriber, "RENEWED", 0.001)
    monkeypatch.setattr(subscriber, "TRY_AGAIN_AFTER", 0.01)
    await rig.stage("stage", "in")
    bridge = await rig.bridge()
    renew, away, renewals = bridge.maintenance.lease, False, 0

    async def unless_away(token: str, *, ttl: float, known: str | None) -> str:
        nonlocal renewals
        if away:
            raise JournalUnavailable("away")
        renewals += 1
        return await renew(token, ttl=ttl, known=known)

    monkeypatch.setattr(bridge.maintenance, "lease", unless_away)
    for _ in range(2):
        away = True
        await eventually(lambda: "outcome=lease-unknown reason=away" in caplog.text)
        away, goal = False, renewals + 2
        await eventually(lambda goal=goal: renewals >= goal)  # type: ignore[misc]
        caplog.clear()


async def test_starting_bridge_subscribes_to_the_channels_of_other_bridges_before_it_leads(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await rig.stage("served", "more")
    other = await rig.bridge()
    own = await rig.stage("own", "in")
    starting = Bridge(rig.settings(routes=[own.route()]))
    take, subscribed = starting.maintenance.lease, set[bool]()
    messages = Subscription.messages

    async def late(subscription: Subscription, *, silence: float) -> AsyncIterator[Sequence[Message]]:
        async for received in messages(subscription, silence=silence):
            if any(message.channel == b"more" for message in received):  # it is subscribed
                for _ in range(20):
                    await asyncio.sleep(0)
            yield received

    monkeypatch.setattr(Subscription, "messages", late)

    async def note(token: str, *, ttl: float, known: str | None) -> str:
        subscribed.add(subscribed_to(starting, "more"))
        return await take(token, ttl=ttl, known=known)

    monkeypatch.setattr(starting.maintenance, "lease", note)
    rig.start(starting)
    await eventually(lambda: starting.ready)
    assert subscribed == {True}, "before it asks for the lease"
    await rig.stop(other)
    await a_leader(starting)
    await rig.redis.publish("more", '"plain"')
    await rig.bridge(routes=[served.route()])
    await eventually(lambda: data_of(served) == ["plain"])


async def test_bridge_does_not_subscribe_to_the_channel_of_an_unserved_stage(rig: Rig) -> None:
    await rig.stage("stage", "in")
    await rig.redis.hset(keys.STAGES, "gone", '{"consumes":["old"],"emits":[],"url":"","beat":1}')
    bridge = await rig.bridge()
    assert subscribed_to(bridge, "in")
    assert not subscribed_to(bridge, "old")


@pytest.mark.parametrize("message", [b"\xff", b"7", b"[7]", b"null"])
async def test_message_of_another_program_on_the_stages_channel_changes_nothing(rig: Rig, message: bytes) -> None:
    stage = await rig.stage("stage", "in")
    await a_leader(await rig.bridge())
    await rig.redis.publish(keys.STAGES, message)
    await rig.redis.publish("in", "1")
    await eventually(lambda: data_of(stage) == [1])


async def test_message_that_redis_never_takes_becomes_a_dead_letter_and_holds_up_no_other(rig: Rig) -> None:
    stage = await rig.stage("stage", "in")
    await rig.stage("broken", "broken")
    await a_leader(await rig.bridge())
    await rig.redis.delete(keys.journal("broken"))
    await rig.redis.set(keys.journal("broken"), "not a stream")
    await rig.redis.publish("broken", "1")
    await rig.redis.publish("in", "2")
    await eventually(lambda: data_of(stage) == [2])
    await eventually(lambda: rig.dead("bridge"))
    (letter,) = await rig.dead("bridge")
    assert (letter.channel, letter.event) == ("broken", b"1")
    assert "WRONGTYPE" in letter.reason


async def test_adopting_does_not_publish_again(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    bridge = await rig.bridge()
    await a_leader(bridge)
    async with rig.redis.pubsub() as subscription:
        await subscription.subscribe("in")
        await rig.redis.publish("in", "1")
        await eventually(lambda: len(stage.received) == 1)
        await rig.redis.publish("in", "2")
        await eventually(lambda: len(stage.received) == 2)
        heard = [await subscription.get_message(timeout=WITHIN) for _ in range(3)]
        assert [message["data"] for message in heard[1:]] == [b"1", b"2"]
        assert await subscription.get_message(timeout=0) is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\xff\xfe not utf-8", "not UTF-8"),
        (b'\xef\xbb\xbf{"broken":', "begins like JSON and is not JSON: Expecting value: line 1 column 11 (char 10)"),
        (b'"' + b"x" * 2_000_000 + b'"', "larger than 1000000 bytes"),
        (b'{"specversion":"1.0","id":"1"}', "source, type: missing"),
        (b'{"specversion":"0.3","id":"1","source":"/x","type":"in"}', "specversion: must be 1.0"),
        (cloud_event("1", "another").encode(), "type: another on the channel in"),
    ],
    ids=["not UTF-8", "broken JSON", "2 MB", "no source", "old", "other type"],
)
async def test_an_unreadable_message_becomes_one_dead_letter_and_the_next_goes_through(
    rig: Rig, message: bytes, reason: str
) -> None:
    stage = await rig.stage("stage", "in", "out")
    bridges = [await rig.bridge(), await rig.bridge()]
    await a_leader(*bridges)
    await rig.redis.publish("in", message)
    await rig.redis.publish("in", "next")
    await eventually(lambda: data_of(stage) == ["next"])
    await eventually(lambda: rig.dead("bridge"))
    (letter,) = await rig.dead("bridge")
    assert letter.reason == reason
    assert letter.channel == "in"
    assert letter.event == message[:64_000]


async def test_unreadable_message_that_redis_refuses_to_keep_is_dropped_and_counted(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    stage = await rig.stage("stage", "in", "out")
    await rig.redis.set(keys.dead("bridge"), "not a stream")
    await rig.redis.sadd(keys.LEASE, "of another type")
    bridge = await rig.bridge()
    await a_leader(bridge)
    await rig.redis.publish("in", b"\xff")
    await rig.redis.publish("in", '"plain"')
    await eventually(lambda: data_of(stage) == ["plain"])
    await eventually(lambda: value(bridge, "unreadable_dropped_total") == 1)
    assert "channel=in outcome=unreadable-dropped reason='Redis: WRONGTYPE" in caplog.text


async def test_deeply_nested_messages_stop_no_bridge(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    await a_leader(await rig.bridge())
    for depth in [190, *range(210, 260, 10), *range(850, 1000, 5), 50_000]:
        await rig.redis.publish("in", "[" * depth + "]" * depth)
    await rig.redis.publish("in", "next")
    await eventually(lambda: "next" in data_of(stage))


async def test_message_of_another_program_on_the_lease_channel_stops_no_bridge(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    bridge = await rig.bridge()
    await a_leader(bridge)
    await rig.redis.publish(keys.LEASE, b"\xff")
    await rig.redis.publish("in", cloud_event("1"))
    await eventually(lambda: stage.count["1"])
    await a_leader(bridge)


def follows(process: Module) -> bool:
    with urllib.request.urlopen(f"{process.url}/metrics", timeout=WITHIN) as answer:
        return b"milepost_leading 0.0" in answer.read()


class Publisher:
    """Publishes plain numbers without a pause, each counted if at least one subscriber took it."""

    def __init__(self, redis: redis_asyncio.Redis) -> None:
        self.redis = redis
        self.sent = 0
        self._stopping = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._stopping:
            await self.redis.publish("in", str(self.sent))
            self.sent += 1
            await asyncio.sleep(0.0005)

    async def more(self, count: int) -> None:
        goal = self.sent + count
        await eventually(lambda: self.sent >= goal)

    async def stop(self) -> None:
        self._stopping = True
        await self._task


async def test_clean_stops_of_leaders_lose_and_double_no_plain_message(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", None)
    bridges = [await rig.bridge(grace="PT30S") for _ in range(4)]
    await a_leader(*bridges)
    publisher = Publisher(rig.redis)
    while len(bridges) > 1:
        leader = await a_leader(*bridges)
        await publisher.more(100)
        bridges.remove(leader)
        await rig.stop(leader)
        await publisher.more(100)
    await publisher.stop()
    await eventually(lambda: len(stage.received) >= publisher.sent)
    await eventually(lambda: rig.settled(stage))
    assert sorted(data_of(stage)) == list(range(publisher.sent))


async def test_stopping_leader_adopts_the_messages_it_has_not_read_yet(rig: Rig) -> None:
    """The second leader was a follower before. The messages in its socket when it stops are its own all the same."""
    stage = await rig.stage("stage", "in", None)
    first = await rig.bridge()
    await a_leader(first)
    second = await rig.bridge(grace="PT30S")  # time to adopt all of it, on a slow machine too
    await rig.stop(first)
    await a_leader(second)
    async with rig.redis.pipeline(transaction=False) as burst:
        for number in range(2000):
            burst.publish("in", str(number))
        await burst.execute()
    await rig.stop(second)
    await rig.bridge()
    await eventually(lambda: len(stage.received) >= 2000)
    assert sorted(data_of(stage)) == list(range(2000))


def messages_arrive_when_set(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Hold back what Redis sends to subscriptions while the returned event is cleared. It is set at first."""
    messages, arrives = Subscription.messages, asyncio.Event()
    arrives.set()

    async def late(subscription: Subscription, *, silence: float) -> AsyncIterator[Sequence[Message]]:
        async for received in messages(subscription, silence=silence):
            await arrives.wait()
            yield received

    monkeypatch.setattr(Subscription, "messages", late)
    return arrives


async def adopted_after_the_release(rig: Rig, leader: Bridge, arrives: asyncio.Event) -> float:
    """Publish a message and stop the leader; once it has released the lease, let the message arrive.

    Returns how many messages the leader has adopted.
    """
    await rig.redis.publish("in", "1")
    stopping = asyncio.create_task(rig.stop(leader))

    async def released() -> bool:
        return not await rig.redis.get(keys.LEASE)

    await eventually(released)
    arrives.set()
    await stopping
    return value(leader, "adopted_total", channel="in", outcome="done")


async def test_stopping_leader_adopts_a_message_that_arrives_after_its_release_and_was_sent_before(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrives = messages_arrive_when_set(monkeypatch)
    await rig.stage("stage", "in", None)
    leader = await rig.bridge(grace="PT60S")
    await a_leader(leader)
    await rig.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: not leading(leader))
    await a_leader(leader)  # a second time: the end of the first must not be taken for the end of this one
    arrives.clear()
    assert await adopted_after_the_release(rig, leader, arrives) == 1


async def test_leader_that_stops_before_it_received_its_own_token_adopts_the_messages_after_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages, held, arrives = Subscription.messages, asyncio.Event(), asyncio.Event()

    async def late(subscription: Subscription, *, silence: float) -> AsyncIterator[Sequence[Message]]:
        async for received in messages(subscription, silence=silence):
            if any((message.kind, message.channel) == (b"message", keys.LEASE.encode()) for message in received):
                held.set()
                await arrives.wait()
            yield received

    monkeypatch.setattr(Subscription, "messages", late)
    arrives.set()
    await rig.stage("stage", "in", None)
    leader = await rig.bridge(grace="PT60S")
    await a_leader(leader)
    held.clear()
    arrives.clear()
    await rig.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(held.is_set)
    assert not leading(leader)
    assert await adopted_after_the_release(rig, leader, arrives) == 1


async def test_bridge_that_leads_again_before_it_received_the_token_of_another_adopts_the_messages_from_then_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrives = messages_arrive_when_set(monkeypatch)
    monkeypatch.setattr(subscriber, "RENEWED", 0.01)
    stage = await rig.stage("stage", "in", None)
    bridge = await rig.bridge()
    await a_leader(bridge)
    arrives.clear()
    own = await rig.redis.get(keys.LEASE)
    async with rig.redis.pipeline(transaction=True) as another_leads:
        another_leads.publish(keys.LEASE, "0" * 32)
        another_leads.delete(keys.LEASE)  # and its lease has expired
        await another_leads.execute()

    async def leads_again() -> bool:
        return await rig.redis.get(keys.LEASE) == own

    await eventually(leads_again)
    await rig.redis.publish("in", "1")
    arrives.set()
    await eventually(lambda: data_of(stage) == [1])


async def test_leader_that_stops_while_it_knows_no_leader_waits_for_no_more_than_its_release(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.stage("stage", "in", None)
    leader = await rig.bridge()
    await a_leader(leader)

    async def away(*_: object, **__: object) -> str:
        raise JournalUnavailable("away")

    monkeypatch.setattr(leader.maintenance, "lease", away)
    await rig.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: not leading(leader))
    await eventually(lambda: all(subscribed_to(leader, channel) for channel in ("in", keys.LEASE, keys.STAGES)))
    await rig.stop(leader)
    assert "left-unadopted" not in caplog.text


async def test_messages_that_find_no_room_to_wait_for_a_leader_are_counted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopter, "MOST_BUFFERED", 10)
    await rig.stage("stage", "in", None)
    bridge = await rig.bridge()
    await a_leader(bridge)
    async with rig.redis.pipeline(transaction=True) as burst:
        burst.publish(keys.LEASE, "")  # a release
        for number in range(50):
            burst.publish("in", str(number))
        await burst.execute()
    # 40 find no room to wait for adoption, as CloudEvents, and for a leader, as plain messages.
    await eventually(lambda: value(bridge, "adoption_overflow_total") > 60)


async def lease_ends(rig: Rig, after: float) -> None:
    """As if these seconds, the lease of a leader that is no more, were over."""
    assert 0 < await rig.redis.pttl(keys.LEASE) <= after * 1000
    await rig.redis.pexpire(keys.LEASE, 1)


async def test_another_bridge_leads_within_the_lease_after_a_leader_was_killed(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", None)
    killed = await rig.running()
    await rig.redis.publish("in", "1")
    await eventually(lambda: data_of(stage) == [1])
    await eventually(lambda: rig.settled(stage))
    survivor = await rig.bridge(lease="PT2S")
    assert not leading(survivor)
    killed.kill()
    await lease_ends(rig, 10)
    await a_leader(survivor)
    await rig.redis.publish("in", "2")
    await eventually(lambda: data_of(stage) == [1, 2])


async def test_frozen_former_leader_adopts_nothing_twice(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", None)
    frozen: Module = await rig.running(LEASE="PT60S")
    await rig.redis.publish("in", "0")
    await eventually(lambda: data_of(stage) == [0])
    second = await rig.bridge(claim="PT1S")
    frozen.freeze()
    await lease_ends(rig, 60)
    await a_leader(second)
    for number in range(1, 301):
        await rig.redis.publish("in", str(number))
    await eventually(lambda: set(data_of(stage)) == set(range(301)))
    frozen.thaw()
    await eventually(lambda: asyncio.to_thread(follows, frozen), what="it knows that another leads")
    for number in range(301, 401):
        await rig.redis.publish("in", str(number))
    await eventually(lambda: set(data_of(stage)) == set(range(401)))
    assert frozen.process
    frozen.process.terminate()
    await ended(frozen)
    await eventually(lambda: rig.settled(stage))
    # What its blocking read was given while it was frozen is delivered again, under the same id.
    assert sorted({event.id: event.data for event in stage.received}.values()) == list(range(401))


async def test_cut_subscription_is_made_again_and_leads_again_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "BEAT", 3600)
    stage = await rig.stage("stage", "in", None)
    bridge = await rig.bridge(lease="PT1H")
    await a_leader(bridge)
    await rig.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: not leading(bridge))
    await a_leader(bridge)
    await rig.redis.publish("in", "1")
    await eventually(lambda: data_of(stage) == [1])
    assert value(bridge, "adoption_overflow_total") == 0


async def test_subscription_that_is_made_again_has_the_channels_that_were_added_meanwhile(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "BEAT", 3600)
    await rig.stage("stage", "in", None)
    bridge = await rig.bridge()
    await a_leader(bridge)
    row = await rig.redis.hget(keys.STAGES, "stage")
    await rig.redis.hset(keys.STAGES, "added", row.replace(b'"in"', b'"more"'))  # the message about it is missed
    await rig.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: subscribed_to(bridge, "more"))


async def test_stage_added_later_gets_a_reply_that_no_stage_consumed_before(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    bridge = await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(stage))
    assert await rig.journaled("out") == ["1"]
    watcher = await rig.stage("watcher", "out")
    added = await rig.bridge(routes=[watcher.route()])
    await eventually(lambda: subscribed_to(bridge, "out"))
    await rig.publish("in", "2")
    await eventually(lambda: watcher.count == {"1": 1, "2": 1})
    await eventually(lambda: rig.settled(watcher))
    assert value(bridge, "adopted_total", channel="out", outcome="done") == 0
    assert value(added, "adopted_total", channel="out", outcome="done") == 0


async def test_bridge_that_may_not_subscribe_to_its_own_channel_is_not_ready_and_says_so(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.stage("stage", "in", None)
    channels = [f"&{channel}" for channel in (keys.LEASE, keys.STAGES)]
    await rig.redis.execute_command("ACL", "SETUSER", "less", "on", ">pass", "~*", "+@all", "resetchannels", *channels)  # type: ignore[no-untyped-call]
    bridge = rig.start(Bridge(rig.settings(redis_url=rig.url.replace("redis://", "redis://less:pass@"))))
    await eventually(lambda: "outcome=unsubscribed reason=" in caplog.text)
    assert not bridge.ready


async def test_channel_that_redis_forbids_costs_a_bridge_no_other_channel(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subscriber, "RENEWED", 0.01)
    stage = await rig.stage("stage", "in", None)
    channels = [f"&{channel}" for channel in (keys.LEASE, keys.STAGES, "in")]
    await rig.redis.execute_command("ACL", "SETUSER", "some", "on", ">pass", "~*", "+@all", "resetchannels", *channels)  # type: ignore[no-untyped-call]
    bridge = await rig.bridge(redis_url=rig.url.replace("redis://", "redis://some:pass@"))
    await a_leader(bridge)
    wiring = Wiring(["theirs"], [], "http://127.0.0.1:1")
    await bridge.maintenance.beat({"other": wiring})
    await rig.redis.publish("in", "1")
    await eventually(lambda: data_of(stage) == [1])
    assert leading(bridge) == [bridge]
    assert not subscribed_to(bridge, "theirs")
    assert "channel=theirs outcome=not-subscribed reason=" in caplog.text
    await lease_is_renewed(rig)
