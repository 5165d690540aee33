"""The world of adoption: two bridges receive the messages that a foreign program publishes, and lead by turns.

Redis gives all subscribers the same messages in the same order. Here each bridge has an inbox of its own, so that it
may handle them late; a bridge that loses its connection loses its inbox. The bridges are `Subscriber` and `Adopter`
without their tasks: each move is one of their steps.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any
from uuid import uuid4

from milepost.bridge.ingest.adopter import MOST_ADOPTED, Adopter, ReceivedMessage, _read
from milepost.bridge.ingest.subscriber import RELEASED, Subscriber
from milepost.bridge.metrics import BridgeMetrics
from milepost.errors import JournalUnavailable
from milepost.journal import BROKER, Adoption, Maintenance, Wiring, keys
from milepost.journal.connection import connect
from tests.model.delivery import check_bounded
from tests.model.world import Move, View, ViolationError, World, messages_between

IN = "in"
MARKER = "model:marker"
TEXTS = [
    b"plain 0",
    b"plain 1",
    b'{"specversion":"1.0","id":"e","source":"/foreign","type":"in","data":"event"}',
]


@dataclass(frozen=True)
class Bounds:
    """Which messages are published, by their numbers in TEXTS, and how often each act may happen on one path.

    `tokens`: how many announcements of the lease a bridge may leave unhandled while others are made. A bridge renews
    its lease each few seconds.
    """

    messages: Sequence[int] = (0,)
    stops: int = 0
    lost_answers: int = 0
    crashes: int = 0
    disconnections: int = 0
    expiries: int = 0
    failovers: int = 0
    refusals: bool = False
    bridges: int = 2
    tokens: int = 1


@dataclass(frozen=True)
class Bridge:
    """`inbox`: messages that Redis has sent and the bridge has not handled. `in_hand`: a batch that is being adopted.

    `heard`: whether it has been connected since the last token was announced. `waits`: whether it stops and messages
    from before the release may come. `superseded`: whether the lease was another's when it stopped.
    """

    token: str
    phase: str = "up"
    connected: bool = True
    heard: bool = False
    leader: str | None = None
    released: str | None = None
    inbox: tuple[tuple[str, bytes], ...] = ()
    unclaimed: tuple[ReceivedMessage, ...] = ()
    queue: tuple[ReceivedMessage, ...] = ()
    in_hand: tuple[tuple[ReceivedMessage, Adoption], ...] = ()
    waits: bool = False
    superseded: bool = False

    @property
    def receives(self) -> bool:
        return self.connected and self.phase != "down"


@dataclass
class Leading:
    """What lies outside Redis. `last`: the token that was announced last. `excused`: messages that may be lost.

    `owners`: plain message → the token that came last before it. RELEASED until the next leader's token comes.
    """

    bridges: list[Bridge]
    published: int = 0
    last: str | None = None
    excused: frozenset[int] = frozenset()
    owners: dict[int, str | None] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    replica: View | None = None
    """The state of Redis when a replica of it fell behind."""

    def copy(self) -> "Leading":
        return replace(self, bridges=list(self.bridges), owners=dict(self.owners), used=dict(self.used))

    def count(self, act: str) -> None:
        self.used[act] = self.used.get(act, 0) + 1


class NextStepError(Exception):
    """A bridge would call Redis again."""


class Once:
    """Lets an Adopter call Redis once. `left`: the messages to adopt after that. `fault`: why Redis refused."""

    def __init__(self, maintenance: Maintenance) -> None:
        self.left: Sequence[Adoption] = ()
        self.fault: JournalUnavailable | None = None
        self._maintenance = maintenance
        self._called = False

    async def adopt(self, batch: Sequence[Adoption]) -> list[str]:
        if self._called:
            self.left = batch
            raise NextStepError
        self._called = True
        try:
            return await self._maintenance.adopt(batch)
        except JournalUnavailable as fault:
            self.fault = fault
            raise NextStepError from None


class AdoptionWorld(World[Leading]):
    """Nothing is adopted twice. Without a fault nothing is lost, however late a message is and whichever bridge stops.

    A crash, a lost connection, a lease that expires although its holder lives and a failover may lose messages that are
    not in the journal by then (see `excuse`): plain ones of the bridge that the fault meets, and CloudEvents that no
    other bridge has. Also plain ones that are published until the next leader has announced its token.
    """

    PROGRESS = frozenset({"publish", "deliver", "lease", "adopt", "end", "start", "pass_time", "connect"})
    DOORS = frozenset({"adopt", "adopt_and_lose_the_answer"})
    OUTSIDE = frozenset(
        {
            "publish",
            "disconnect",
            "connect",
            "crash",
            "start",
            "expire",
            "pass_time",
            "deliver",
            "end",
            "fall_behind",
            "fail_over",
        }
    )
    SERVERS = ("read_only", "lost", "full")

    def __init__(self, url: str, bounds: Bounds) -> None:
        super().__init__(url)
        self.bounds = bounds
        self.refusals = bounds.refusals
        self._metrics = BridgeMetrics()
        self._redis = connect(self.settings)
        self._heard: Any = None

    def __repr__(self) -> str:
        return f"AdoptionWorld(url, {self.bounds!r})"

    async def close(self) -> None:
        if self._heard is not None:
            await self._heard.aclose()
        await self._redis.aclose()
        await super().close()

    async def begin(self) -> Leading:
        if self._heard is None:
            self._heard = messages_between(self._redis, MARKER, IN, keys.LEASE)
            await anext(self._heard)
        await self.maintenance.beat({"a": Wiring([IN], [], "")})
        await self.scripts.ensure(stage="a", broker=BROKER, channel=IN)
        return Leading([Bridge(uuid4().hex) for _ in range(self.bounds.bridges)])

    def moves(self, local: Leading, view: View) -> Iterator[Move]:
        if local.published < len(self.bounds.messages):
            yield ("publish",)
        tokens = [sum(channel == keys.LEASE for channel, _ in bridge.inbox) for bridge in local.bridges]
        for number, bridge in enumerate(local.bridges):
            if bridge.phase == "down":
                yield "start", number
            else:
                yield from self._steps(local, number, bridge, may_lease=max(tokens) < self.bounds.tokens)
                yield from self._faults(local, number, bridge)
        if local.replica:
            yield ("fail_over",)
        elif self.left(local, "failovers"):
            yield ("fall_behind",)
        if keys.LEASE in view.others:
            if self.expires(local, view.others[keys.LEASE].decode()):
                yield ("pass_time",)
            elif self.left(local, "expiries"):
                yield ("expire",)

    def left(self, local: Leading, act: str) -> bool:
        return bool(local.used.get(act, 0) < getattr(self.bounds, act))

    def _steps(self, local: Leading, number: int, bridge: Bridge, *, may_lease: bool) -> Iterator[Move]:
        answers = ("", "_and_lose_the_answer") if self.left(local, "lost_answers") else ("",)
        if bridge.inbox:
            yield "deliver", number
        for answer in answers:
            if bridge.queue or bridge.in_hand:
                yield f"adopt{answer}", number
            if bridge.connected and bridge.phase == "up" and may_lease:
                yield f"lease{answer}", number
            if bridge.phase == "up" and self.left(local, "stops"):
                yield f"stop{answer}", number
        if bridge.phase == "stopping":
            yield "end", number

    def _faults(self, local: Leading, number: int, bridge: Bridge) -> Iterator[Move]:
        if not bridge.connected:
            yield "connect", number
        elif self.left(local, "disconnections"):
            yield "disconnect", number
        if self.left(local, "crashes"):
            yield "crash", number

    def expires(self, local: Leading, holder: str) -> bool:
        """Whether the lease expires without a fault: no bridge is there that would renew it, or take it before."""
        if holder == RELEASED:
            return not any(bridge.heard and bridge.connected and bridge.phase == "up" for bridge in local.bridges)
        return not any(bridge.token == holder and bridge.receives and bridge.phase == "up" for bridge in local.bridges)

    # the outside

    async def do_publish(self, local: Leading) -> None:
        number = self.bounds.messages[local.published]
        local.published += 1
        await self.connection.call("PUBLISH", IN, TEXTS[number])
        await self.receive(local)
        receivers = [bridge for bridge in local.bridges if bridge.receives]
        if not is_plain(number):
            owned = any(bridge.phase == "up" for bridge in receivers)
        elif local.last == RELEASED:
            owned = any(bridge.heard and bridge.phase == "up" for bridge in receivers)
        else:
            owned = any(bridge.heard and bridge.token == local.last for bridge in receivers)
        expired = is_plain(number) and await self.connection.call("GET", keys.LEASE) is None
        if not owned or expired:
            local.excused |= {number}
        if is_plain(number):
            local.owners[number] = local.last

    async def do_disconnect(self, local: Leading, number: int) -> None:
        local.count("disconnections")
        self.lose_connection(local, number)

    def lose_connection(self, local: Leading, *numbers: int) -> None:
        """These bridges keep the messages that they are to adopt. They may lose the lease before they have."""
        bridges = {number: replace(local.bridges[number], connected=False, heard=False, inbox=()) for number in numbers}
        for number, bridge in bridges.items():
            local.bridges[number] = replace(bridge, unclaimed=())
        self.excuse(local, {bridge.token for bridge in bridges.values() if bridge.phase == "up"})
        for number, bridge in bridges.items():
            subscriber = self.subscriber(bridge)
            subscriber._follow(None)
            local.bridges[number] = self.after(bridge, subscriber)

    async def do_fall_behind(self, local: Leading) -> None:
        """A replica gets no further writes."""
        local.count("failovers")
        local.replica = await self.view()

    async def do_fail_over(self, local: Leading) -> None:
        """The replica is promoted, and every bridge loses its connection."""
        assert local.replica is not None
        await self.restore(local.replica.snapshot)
        local.replica = None
        self.lose_connection(local, *(number for number, bridge in enumerate(local.bridges) if bridge.phase != "down"))

    async def do_connect(self, local: Leading, number: int) -> None:
        local.bridges[number] = replace(local.bridges[number], connected=True)

    async def do_crash(self, local: Leading, number: int) -> None:
        local.count("crashes")
        local.bridges[number] = Bridge("", phase="down", connected=False)
        self.excuse(local)

    async def do_start(self, local: Leading, number: int) -> None:
        local.bridges[number] = Bridge(uuid4().hex)

    async def do_expire(self, local: Leading) -> None:
        """The lease expires though a bridge would have renewed or taken it: that bridge was frozen."""
        local.count("expiries")
        self.excuse(local, {(await self.connection.call("GET", keys.LEASE)).decode()})
        await self.connection.call("DEL", keys.LEASE)

    async def do_pass_time(self, _: Leading) -> None:
        await self.connection.call("DEL", keys.LEASE)

    def excuse(self, local: Leading, refused: Collection[str] = ()) -> None:
        """After a fault: excuse the published messages that no bridge will adopt.

        `refused`: tokens that the lease may not have any more, so that Redis refuses plain messages of these.
        """
        for number in self.bounds.messages[: local.published]:
            owner = local.owners.get(number)
            lost = is_plain(number) and owner in {None, *refused}
            if lost or not any(adopts(bridge, number, owner) for bridge in local.bridges):
                local.excused |= {number}

    # steps of a bridge

    async def do_deliver(self, local: Leading, number: int) -> None:
        """A bridge handles the next message of its inbox."""
        bridge = local.bridges[number]
        (channel, data), *rest = bridge.inbox
        subscriber = self.subscriber(bridge)
        subscriber._sort(channel, data)
        local.bridges[number] = self.after(replace(bridge, inbox=tuple(rest)), subscriber)

    async def do_lease(self, local: Leading, number: int) -> None:
        subscriber = self.subscriber(local.bridges[number])
        await subscriber._take_lease()
        local.bridges[number] = self.after(local.bridges[number], subscriber)
        await self.receive(local)

    async def do_lease_and_lose_the_answer(self, local: Leading, number: int) -> None:
        local.count("lost_answers")
        await self.subscriber(local.bridges[number])._take_lease()
        await self.receive(local)

    async def do_adopt(self, local: Leading, number: int) -> None:
        bridge, left = await self.adopt(local, number)
        local.bridges[number] = replace(bridge, in_hand=tuple(left))

    async def do_adopt_and_lose_the_answer(self, local: Leading, number: int) -> None:
        local.count("lost_answers")
        bridge, _ = await self.adopt(local, number)
        local.bridges[number] = bridge

    async def adopt(self, local: Leading, number: int) -> tuple[Bridge, Sequence[tuple[ReceivedMessage, Adoption]]]:
        bridge = local.bridges[number]
        if not bridge.in_hand:
            foreign, _ = _read(bridge.queue[:MOST_ADOPTED])
            bridge = replace(bridge, queue=bridge.queue[MOST_ADOPTED:], in_hand=tuple(foreign))
        once = Once(self.maintenance)
        adopter = Adopter(once, self._metrics)  # type: ignore[arg-type]
        adopter.released = bridge.released
        try:
            await adopter._adopt(list(bridge.in_hand))
        except NextStepError:
            if once.fault:
                raise once.fault from None
        left = [
            (received, again) for again in once.left for received, first in bridge.in_hand if first.event is again.event
        ]
        return bridge, left

    async def do_stop(self, local: Leading, number: int) -> None:
        bridge = local.bridges[number]
        local.count("stops")
        holder = await self.connection.call("GET", keys.LEASE)
        subscriber = self.subscriber(bridge)
        stopping = replace(bridge, phase="stopping", released=bridge.token, waits=False)
        if not subscriber.leading and holder != bridge.token.encode():  # it is to wait for no message
            local.bridges[number] = stopping
            self.excuse(local)
        await subscriber.release_lease()
        local.bridges[number] = self.after(stopping, subscriber)
        await self.receive(local)

    async def do_stop_and_lose_the_answer(self, local: Leading, number: int) -> None:
        """The connection to Redis sends a command again whose answer was lost.

        The second answer says that the lease is not ours. A bridge that has not received its own token by then does
        not know that the first released it, and waits for no message: this loses messages of a few milliseconds.
        """
        local.count("lost_answers")
        await self.maintenance.release(local.bridges[number].token)
        await self.do_stop(local, number)

    async def do_end(self, local: Leading, number: int) -> None:
        """A bridge that stops ends once it no longer leads and has adopted everything."""
        bridge = local.bridges[number]
        if not bridge.waits and not bridge.queue and not bridge.in_hand:
            local.bridges[number] = Bridge("", phase="down", connected=False)

    async def receive(self, local: Leading) -> None:
        """Put everything that was published into the inboxes of the bridges that are connected."""
        await self.connection.call("PUBLISH", MARKER, "")
        for channel, data in await anext(self._heard):
            if channel == keys.LEASE:
                local.last = data.decode()
                local.owners = {of: local.last if owner == RELEASED else owner for of, owner in local.owners.items()}
            for number, bridge in enumerate(local.bridges):
                if bridge.receives:
                    heard = bridge.heard or channel == keys.LEASE
                    local.bridges[number] = replace(bridge, inbox=(*bridge.inbox, (channel, data)), heard=heard)

    def subscriber(self, bridge: Bridge) -> Subscriber:
        """Return the bridge's subscriber in the state that it is in."""
        subscriber = Subscriber(
            self._redis,
            [IN],
            self.maintenance,
            self._metrics,
            lease=3600.0,
            beat=None,  # type: ignore[arg-type]
        )
        subscriber._token, subscriber._leader = bridge.token, bridge.leader
        subscriber._adopter.released = bridge.released
        subscriber._superseded = bridge.superseded
        if not bridge.waits:
            subscriber._lead_ended.set()
        for received in bridge.unclaimed:
            subscriber._unclaimed.add(received)
        for received in bridge.queue:
            subscriber._adopter.add(received)
        return subscriber

    def after(self, bridge: Bridge, subscriber: Subscriber) -> Bridge:
        return replace(
            bridge,
            token=subscriber._token,
            leader=subscriber._leader,
            waits=not subscriber._lead_ended.is_set(),
            superseded=subscriber._superseded,
            unclaimed=tuple(subscriber._unclaimed.clear()),
            queue=tuple(subscriber._adopter._buffer.clear()),
        )

    # the parts of a state

    def check(self, local: Leading, view: View) -> tuple[Any, bool]:
        journal = adopted(view)
        if len(set(journal)) < len(journal):
            raise ViolationError(f"adopted twice: {sorted(journal)}")
        published = set(self.bounds.messages[: local.published])
        finished = len(published) == len(self.bounds.messages) and published <= local.excused | set(journal)
        check_bounded(view)
        orders = permutations(range(self.bounds.bridges))
        return min((self._whole_key(local, view, order) for order in orders), key=repr), finished

    async def check_counts(self, _: Leading, view: View) -> None:
        """The backlog and the depth of the stage count the messages in the journal, of which it has read none."""
        (depth,) = await self.journal.admin.depths({"a": [IN]})
        counted = depth.journaled, await self.journal.backlog(), depth.parked, depth.dead
        count = len(adopted(view))
        if counted != (count, count, 0, 0) or (depth.oldest is None) != (count == 0):
            raise ViolationError(f"{depth}, a backlog of {counted[1]}, and {count} events wait")

    def _whole_key(self, local: Leading, view: View, order: Sequence[int]) -> Any:
        behind = self._key(local, local.replica, order) if local.replica else None
        return self._key(local, view, order), behind

    def _key(self, local: Leading, view: View, order: Sequence[int]) -> Any:
        journal = adopted(view)
        names: dict[str | None, Any] = {None: None, RELEASED: ""}
        for number, at in enumerate(order):
            bridge = local.bridges[at]
            if bridge.released is not None:
                names[bridge.released] = f"released by {number}"
            if bridge.token:
                names[bridge.token] = number

        def name(token: str | None) -> Any:
            return names.get(token, "another")

        def message(received: ReceivedMessage) -> Any:
            return received.message, name(received.token)

        bridges = [
            (
                bridge.phase,
                bridge.connected,
                bridge.heard,
                bridge.waits,
                bridge.superseded,
                name(bridge.leader),
                name(bridge.released),
                [(channel, name(data.decode()) if channel == keys.LEASE else data) for channel, data in bridge.inbox],
                list(map(message, bridge.unclaimed)),
                list(map(message, bridge.queue)),
                [(message(received), name(adoption.token)) for received, adoption in bridge.in_hand],
            )
            for bridge in (local.bridges[at] for at in order)
        ]
        lease = view.others.get(keys.LEASE)
        return (
            repr(bridges),
            None if lease is None else name(lease.decode()),
            name(local.last),
            tuple(sorted(journal)),
            local.published,
            tuple(sorted(local.excused - set(journal))),
            tuple((of, name(local.owners[of])) for of in sorted(local.owners.keys() - local.excused - set(journal))),
            tuple(sorted(local.used.items())),
        )


def is_plain(number: int) -> bool:
    """Whether this message is no CloudEvent."""
    return not TEXTS[number].startswith(b"{")


def adopts(bridge: Bridge, number: int, owner: str | None) -> bool:
    """Whether a bridge has this message and will adopt it, unless a fault comes. See the rules of subscriber.py.

    It has messages that it will yet receive only while it is up, or waits for the end of its lead.
    """
    text, tokens = TEXTS[number], [received.token for received in to_adopt(bridge) if received.message == TEXTS[number]]
    inbox = [data for channel, data in to_receive(bridge) if channel == IN]
    if not is_plain(number):
        return text in inbox or bool(tokens)
    unclaimed = [received.message for received in bridge.unclaimed] if bridge.phase == "up" or bridge.waits else []
    if owner == RELEASED:
        return bridge.phase == "up" and bridge.heard and text in [*inbox, *unclaimed]
    return owner in {bridge.token, bridge.released} and (text in [*inbox, *unclaimed] or any(tokens))


def to_adopt(bridge: Bridge) -> list[ReceivedMessage]:
    return [*(received for received, _ in bridge.in_hand), *bridge.queue]


def to_receive(bridge: Bridge) -> Sequence[tuple[str, bytes]]:
    """Return the part of the inbox that the bridge will handle: all, or until its lead ends."""
    if bridge.phase == "up":
        return bridge.inbox
    ends = [
        place
        for place, (channel, data) in enumerate(bridge.inbox)
        if channel == keys.LEASE and (not data or (bridge.superseded and data != bridge.token.encode()))
    ]
    return bridge.inbox[: min(ends, default=None)] if bridge.waits else ()


def adopted(view: View) -> list[int]:
    """Return the numbers of the messages in the journal, in its order."""
    numbers = {
        b'"' + (text if not text.startswith(b"{") else b"event") + b'"': number for number, text in enumerate(TEXTS)
    }
    rows = view.streams[keys.journal(IN)]
    return [numbers[body[b"event"].partition(b'"data":')[2].rstrip(b"}")] for _, body in rows]
