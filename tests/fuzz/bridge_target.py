"""The bridge under test: messages on its channels, and its HTTP door."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import inputs, oracle
from tests.fuzz.link import ask_all, request, tell_all
from tests.fuzz.target import JSON, STRUCTURED, Sent, Tally, Target, event_requests, fresh, good_event
from tests.fuzz.world import Delivered, World
from tests.servers import WITHIN, eventually

CHANNELS = ["raw_input", "calculated_distance", "user:email"]
UNREADABLE = "{milepost}:dead:bridge"
JOURNALS = "{milepost}:journals"
Message = tuple[str, bytes]


@st.composite
def messages(draw: Callable[..., Any]) -> Message:
    """A channel and a message to PUBLISH on it: a payload or a CloudEvent, damaged now and then, or random bytes."""
    channel = draw(st.sampled_from(CHANNELS))
    kind = draw(st.integers(0, 19))
    if kind < 8:
        fields = draw(inputs.events(channel, other=True))
        if "id" in fields and fields["id"] is None:
            fields["id"] = fresh()
        written = inputs.write(fields)
    elif kind < 16:
        written = inputs.write(draw(inputs.payloads(channel)))
    else:
        written = draw(st.one_of(st.binary(max_size=60), inputs.text.map(lambda text: text.encode(errors="replace"))))
    if kind in {0, 1, 8, 9}:
        written = draw(inputs.damaged(written))
    if kind in {7, 15}:
        written = draw(st.sampled_from([oracle.OWN, oracle.OWN[:-1], b'{"specversion":"1.0",'])) + written
    if kind == 19 and draw(st.integers(0, 4)) == 0:
        written = draw(inputs.huge())
    return channel, written


def value_of(message: bytes) -> Any:
    """The data of a plain message. Raises ValueError if it is unreadable."""
    if len(message) > oracle.MOST:
        raise ValueError("large")
    text = message.decode("utf-8").removeprefix("\ufeff").strip()
    try:
        return text if text.startswith("\ufeff") else oracle.json_of(text.encode())
    except ValueError:
        if text[:1] in {"{", "[", '"'}:
            raise
        return text


class Published:
    """The messages of a batch, and the result that the oracle demands for each."""

    def __init__(self, named_before: set[tuple[str, str]]) -> None:
        self.sent: list[Message] = []
        self.ignored = 0
        self.unreadable = 0
        self.plain: Counter[str] = Counter()
        self.named: dict[tuple[str, str], str] = {}
        self._named_before = named_before

    def add(self, channel: str, message: bytes) -> None:
        """Add a message, unless it is an event that was published before: the bridge adopts that only once."""
        if message.startswith(oracle.OWN):
            self.ignored += 1
        elif not self._read(channel, message):
            return
        self.sent.append((channel, message))

    def _read(self, channel: str, message: bytes) -> bool:
        try:
            value = value_of(message)
        except ValueError:
            self.unreadable += 1
            return True
        if not (isinstance(value, dict) and "specversion" in value):
            self.plain[canonical(channel, value)] += 1
            return True
        event = oracle.event(value)
        if event is None or event["type"] != channel:
            self.unreadable += 1
            return True
        name = (event["source"], event["id"])
        if name in self._named_before:
            return False
        self._named_before.add(name)
        self.named[name] = canonical(channel, event.get("data"))
        return True

    def arrived(self, one: Delivered) -> None:
        """Check that this delivery is expected and has not come yet."""
        name = (one.fields["source"], one.fields["id"])
        data = canonical(one.channel, one.fields.get("data"))
        assert oracle.event(one.fields), one
        if name in self.named:
            assert self.named.pop(name) == data, one
        else:
            assert name[0].startswith("/redis/"), one
            self.plain[data] -= 1


def publish(world: World, batch: Sequence[Message]) -> Tally:
    assert world.bridge.alive
    tally = Tally()
    published = Published(world.named)
    for message in batch:
        published.add(*message)
    last = fresh()
    with world.redis.pipeline(transaction=False) as together:
        for message in [*published.sent, ("raw_input", good_event("raw_input", event_id=last).body)]:
            together.publish(*message)
        together.execute()
    expected = len(published.sent) - published.ignored + 1
    delivered = settled(world, lambda found, dead: found + dead == expected, last)
    dead = world.redis.xrange(UNREADABLE)
    world.redis.xtrim(UNREADABLE, maxlen=0)
    assert all(fields[b"reason"] for _, fields in dead), dead
    for one in delivered:
        if one.fields["id"] != last:
            published.arrived(one)
            weigh(tally, one.fields)
    # These alone may be refused although no rule of CloudEvents forbids them.
    assert len(dead) == published.unreadable + len(published.named), (published.named, dead)
    assert not any(published.plain.values()), published.plain
    world.alive()
    tally.bad += len(dead) + published.ignored
    return tally


def weigh(tally: Tally, event: dict[str, Any]) -> None:
    """Count an accepted event. The bridge never checks payloads, so one that every stage would refuse counts as bad."""
    if event["type"] in CHANNELS and oracle.payload(event["type"], event.get("data")) is not None:
        tally.good += 1
    else:
        tally.bad += 1


def canonical(channel: str, data: Any) -> str:
    return channel + json.dumps(data, sort_keys=True)


def settled(world: World, enough: Callable[[int, int], bool], last: str) -> list[Delivered]:
    """Wait until `enough` accepts the counts of deliveries and dead letters, and return the new deliveries."""
    arrived = world.sink.delivered

    async def all_here() -> bool:
        # The count of dead letters is asked only once the last good event is here.
        return any(one.fields["id"] == last for one in arrived) and enough(len(arrived), world.redis.xlen(UNREADABLE))

    world.run(eventually(all_here, WITHIN, "every message delivered or a dead letter"))
    found = arrived[:]
    arrived.clear()
    return found


def ingress(world: World, batch: Sequence[Sent]) -> Tally:
    batch = [sent for sent in batch if unheard_of(world, sent.means())]
    replies = world.run(ask_all(world.links(world.bridge), [sent.written() for sent in batch]))
    tally = Tally()
    expected: dict[tuple[str, str], dict[str, Any]] = {}
    for sent, reply in zip(batch, replies, strict=True):
        if reply.status != 202:
            oracle.refused(reply)
            tally.bad += 1
            continue
        event = sent.means()
        assert event is not None, (sent, reply)
        weigh(tally, event)
        expected[event["source"], event["id"]] = event
    followed(world, expected)
    return tally


def unheard_of(world: World, event: dict[str, Any] | None) -> bool:
    """Whether an event was not sent before. A duplicate is answered 202 and not delivered. None is no event."""
    name = event and (event["source"], event["id"])
    if name in world.named:
        return False
    if name:
        world.named.add(name)
    return True


def followed(world: World, expected: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Check that a good event is delivered, and that exactly these events were delivered or journaled, unchanged."""
    last = fresh()
    good = good_event("raw_input", event_id=last)
    (reply,) = world.run(ask_all(world.links(world.bridge)[:1], [good.written()]))
    assert reply.status == 202, reply
    here = sum(event["type"] in CHANNELS for event in expected.values())
    found = [one.fields for one in settled(world, lambda delivered, _: delivered > here, last)]
    found += journaled(world)
    for fields in found:
        assert oracle.event(fields), fields
        if fields["id"] != last:
            event = expected.pop((fields["source"], fields["id"]))
            assert fields["type"] == event["type"]
            assert fields.get("data") == event.get("data")
    assert not expected, expected
    world.alive()


def journaled(world: World) -> list[dict[str, Any]]:
    """The events of channels that no stage consumes; their journals are deleted."""
    found = []
    for channel in world.redis.smembers(JOURNALS) - {name.encode() for name in CHANNELS}:
        key = b"{milepost}:journal:" + channel
        found += [json.loads(fields[b"event"]) for _, fields in world.redis.xrange(key)]
        world.redis.delete(key)
        world.redis.srem(JOURNALS, channel)
    return found


def at_rest(world: World) -> bool:
    """Whether every journaled event is finished."""
    (group,) = world.redis.xinfo_groups("{milepost}:journal:raw_input")
    return group["pending"] == 0 and not group["lag"]


@st.composite
def raw_requests(draw: Callable[..., Any]) -> tuple[bytes, str]:
    """The bytes of a request, damaged, and the id in them."""
    event_id = fresh()
    path, method = "/", "POST"
    if draw(st.integers(0, 3)) == 0:
        path = draw(st.sampled_from(["/replies", "/dead/x", "/healthz", "/metrics", "//", "/%00", "/..", "*", "/?a"]))
        method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "HEAD", "PRI", "CONNECT"]))
    fields = {"specversion": "1.0", "id": event_id, "source": "/fuzz", "type": "raw_input"}
    if draw(st.booleans()):
        sound = request(path, [STRUCTURED], inputs.write({**fields, "data": inputs.PLACE}), method)
    else:
        headers = [(f"ce-{name}".encode(), value.encode()) for name, value in fields.items()]
        sound = request(path, [*headers, JSON], inputs.write(inputs.PLACE), method)
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=80)), event_id
    return draw(inputs.damaged(sound, 2)), event_id


def raw(world: World, batch: Sequence[tuple[bytes, str]]) -> Tally:
    replies = world.run(tell_all(world.bridge.port, [sent for sent, _ in batch]))
    tally = Tally()
    for reply in replies:
        if reply is not None and reply.status < 300:
            tally.good += 1
        else:
            tally.bad += 1
            if reply is not None and reply.body:
                oracle.refused(reply)
    last = fresh()
    good = good_event("raw_input", event_id=last)
    (reply,) = world.run(ask_all(world.links(world.bridge)[:1], [good.written()]))
    assert reply.status == 202, reply
    found = [one.fields for one in settled(world, lambda *_: at_rest(world), last)]
    for fields in [*found, *journaled(world)]:
        assert oracle.event(fields), fields
    world.alive()
    return tally


TARGETS = [
    Target("bridge, pub/sub", lambda _: messages(), publish, share=2),
    Target("bridge, ingress", lambda _: event_requests("raw_input", other=True), ingress),
    Target("bridge, raw bytes", lambda _: raw_requests(), raw, batch=60, share=0.75),
]
