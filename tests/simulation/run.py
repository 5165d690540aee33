"""One run: a seed decides the settings, and the faults and their times. Then the invariants are checked.

The bridges and the producer are the real ones. For CALM seconds things happen; after that there are no more faults, and
within SETTLED seconds everything must have its effect. The invariants:

1. Accepted ⇒ effect: each accepted event was taken by each stage that it is for, or is a dead letter there with cause.
2. Effect ⇒ accepted: stages get only events that were published.
3. Once: each event is announced once on each channel, not counting events that a failover has undone. Of an event that
   a stage splits all pieces are announced. One that a stage answers on one of two channels is announced on that one
   alone.
4. One bridge at a time: two POSTs of one event to one stage are under way together only after a fault that explains it:
   a bridge that could not renew its claims, or that reads late an entry which another has taken over meanwhile.
5. Nothing stays: journals, retries and parked events are empty, and all other keys expire or are of a bounded size.
6. Plain messages that other programs PUBLISH are adopted once at most; exactly once in a run in which bridges only stop
   cleanly, one after the other. A failover may lose one.
7. No task of a bridge ends with an exception.
8. An event that a crashed bridge had sent to a function is delivered again within the claim time plus 2 s, and before
   newer events, if another bridge and the function had no trouble meanwhile.
9. In order: an ordered stage gets an event only when it has taken all earlier ones of its key in the journal, or when
   these are dead letters. Then an earlier one comes again only from a bridge that had trouble, or after a failover.
   Not judged is an event that is published again because a failover has undone its first entry.
"""

import asyncio
import gc
import json
import math
import random
import warnings
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from milepost.bridge.bridge import Bridge
from milepost.bridge.settings import BridgeSettings
from milepost.errors import JournalUnavailable
from milepost.events.event import JOURNAL_MARK, Event
from milepost.journal import Journal, keys
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.simulation.loop import StuckError, VirtualLoop, deterministic, owner, run
from tests.simulation.redis_server import REDIS, Redis, Server
from tests.simulation.stages import (
    BAD,
    CONSUMES,
    EMITS,
    SLOW,
    SPLITS,
    Delivery,
    Stages,
    channel_of,
    host_of,
    pieces_of,
)

CALM = 15.0
"""Seconds after which nothing goes wrong any more."""

SETTLED = 60.0
"""Seconds after that within which everything must have its effect."""

CLAIM = 3.0
RETRY = 2

AGAIN_WITHIN = CLAIM + 2.0
"""Seconds from a crash until what the bridge had sent to functions is delivered again."""

LONGEST = 10.0
"""Seconds that a trouble lasts, at most."""

URL = f"redis://{REDIS}:6379/0"

Act = Callable[[], Awaitable[None]]

KEY = "customer"
"""The field that a stage is ordered by."""

KEYS = ("ann", "bob", "cy")
"""Its values. Some events lack the field."""

BOUNDED = {keys.JOURNALS, keys.STAGES, keys.DEAD, keys.PAUSED, keys.STATS}


@dataclass(frozen=True)
class Plan:
    """What the seed does not decide. `acts`: the troubles, by the names of methods of the world."""

    acts: tuple[str, ...] | None = None
    gentle: bool | None = None
    trouble: float | None = None
    slow: bool | None = None
    ordered: tuple[str, ...] | None = None
    """The stages that are ordered by key."""


@dataclass
class Result:
    """What a run came to. `digest`: of every command to Redis with its time."""

    seed: int
    violations: list[str] = field(default_factory=list)
    digest: str = ""
    seconds: float = 0.0
    commands: int = 0
    deliveries: int = 0
    story: list[str] = field(default_factory=list)


def simulate(server: Server, seed: int, plan: Plan = Plan()) -> Result:
    """Run one seed."""
    rng = random.Random(f"milepost {seed}")
    loop = VirtualLoop(random.Random(rng.random()))
    collecting = gc.isenabled()
    gc.disable()  # when it collects depends on what ran before
    try:
        with warnings.catch_warnings(), deterministic(loop, random.Random(rng.random())):
            warnings.simplefilter("ignore", ResourceWarning)  # a bridge that crashes closes nothing
            redis = Redis(server, loop)
            try:
                world = _World(loop, redis, rng, Result(seed), plan)
                try:
                    run(loop, world.play())
                except StuckError:
                    world.result.violations.append("stuck: nothing is ready and no timer is set")
            finally:
                redis.close()
            result = world.result
            result.violations += loop.faults
            result.digest = redis.digest.hexdigest()
            result.seconds = loop.time()
            result.commands = redis.commands
            result.deliveries = len(world.stages.deliveries)
            return result
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        if collecting:
            gc.enable()


class _World:
    def __init__(self, loop: VirtualLoop, redis: Redis, rng: random.Random, result: Result, plan: Plan) -> None:
        self.loop = loop
        self.redis = redis
        self.rng = rng
        self.result = result
        self.stages = Stages(loop, random.Random(rng.random()))
        self.stages.trouble = _either(plan.trouble, rng.choice([0.0, 0.05, 0.3]))
        self.stages.bad = SLOW if _either(plan.slow, rng.random() < 0.25) else BAD
        self.batch = rng.choice([1, 4])
        self.gentle = _either(plan.gentle, rng.random() < 0.3)
        """Whether bridges only stop cleanly, one after the other, and Redis has no trouble."""
        self.acts = _either(plan.acts, self._acts())
        self.ordered = _either(plan.ordered, rng.choice([(), ("second",), tuple(EMITS)]))
        self.plain = [f"plain {number}" for number in range(rng.randint(0, 10))]
        self._stopping = asyncio.Lock()
        self._failing_over = asyncio.Lock()
        self.events = [self._event(number) for number in range(rng.randint(5, 25))]
        self.accepted: set[str] = set()
        self.bridges: dict[str, Bridge] = {}
        self._started = 0
        self.disturbed: defaultdict[str, list[float]] = defaultdict(list)
        """When something happened to a bridge after which another may take its events over."""
        self.away: defaultdict[str, list[float]] = defaultdict(list)
        """When something happened to a stage after which a bridge waits before it sends more."""
        self.undone: list[tuple[float, float]] = []
        """Begin and end of each time whose writes a failover has undone."""
        self.crashes: list[tuple[float, list[Delivery], list[str]]] = []
        """When a bridge crashed, what it had sent to functions, and the other bridges."""

    def _acts(self) -> tuple[str, ...]:
        """Return the troubles of this run, as the seed decides."""
        acts = ["_stop_one", "_flaky_producers", "_stage_away", "_function_dies"]
        if not self.gentle:
            acts += ["_crash_one", "_cut_one", "_flaky_one", "_stall_one", "_restart_redis", "_fail_over"]
        return tuple(self.rng.choices(acts, k=self.rng.choice([0, 1, 2, 4, 8])))

    def _event(self, number: int) -> Event:
        kind = self.rng.choices(["good", "refused", "poison"], [10, 1, 1])[0]
        data = {"number": number} | self.rng.choice([{}, *({KEY: key} for key in KEYS)])
        return Event(id=f"{kind}-{number}", source="/simulation", type="in", time="2027-01-01T00:00:00Z", data=data)

    def say(self, what: str) -> None:
        self.result.story.append(f"{self.loop.time():8.3f} {what}")

    async def play(self) -> None:
        acts = [self._publish(event) for event in self.events]
        acts += [self._publish_plainly(text) for text in self.plain]
        acts += [self._trouble(getattr(self, name)) for name in self.acts]
        for _ in range(2):
            self._start()
        await asyncio.gather(*acts)
        await asyncio.sleep(max(0.0, CALM - self.loop.time()))
        self.stages.trouble = 0.0
        end = self.loop.time() + SETTLED
        self.say("calm")
        while (left := self._left()) and self.loop.time() < end:
            await asyncio.sleep(1)
        self.result.violations += left
        self._check()
        for name in list(self.bridges):
            await self._stop(name)

    # components

    def _start(self) -> None:
        self._started += 1
        name = f"bridge {self._started}"
        token = owner.set(name)
        try:
            bridge = self.bridges[name] = Bridge(_settings(self.batch, self.ordered))
            bridge.start(failed=lambda: self.result.violations.append(f"{name} ended with an exception"))
        finally:
            owner.reset(token)
        self.say(f"{name} starts")

    async def _crash(self, name: str) -> None:
        self.say(f"{name} crashes")
        del self.bridges[name]
        sent = [one for one in self.stages.deliveries if one.under_way and one.bridge == name]
        self.crashes.append((self.loop.time(), sent, list(self.bridges)))
        self.disturbed[name].append(self.loop.time())
        await self.loop.crash(name)

    async def _stop(self, name: str) -> None:
        self.say(f"{name} stops")
        bridge = self.bridges.pop(name)
        self.disturbed[name].append(self.loop.time())
        token = owner.set(name)
        stopping = asyncio.create_task(bridge.stop())
        owner.reset(token)
        await asyncio.wait([stopping], timeout=20)
        if not stopping.done():
            self.result.violations.append(f"{name} does not stop")
        await self.loop.crash(name)

    async def _publish(self, event: Event) -> None:
        """As a producer does: with the same id until the door says yes."""
        await asyncio.sleep(self.rng.uniform(0.5, CALM * 0.8))
        name = f"producer of {event.id}"
        token = owner.set(name)
        task = asyncio.create_task(self._publish_until_accepted(event))
        owner.reset(token)
        await task
        await self.loop.crash(name)

    async def _publish_until_accepted(self, event: Event) -> None:
        settings = JournalSettings.read(redis_url=URL, replicas=1)
        journal = Journal(connect(settings), settings)
        while True:
            try:
                await journal.publish(event)
            except JournalUnavailable:
                await asyncio.sleep(0.2)
                continue
            self.accepted.add(event.id)
            await journal.close()
            return

    async def _publish_plainly(self, text: str) -> None:
        await asyncio.sleep(self.rng.uniform(3.0, CALM * 0.8))
        self.redis.call("PUBLISH", "in", text)

    # trouble

    async def _trouble(self, act: Act) -> None:
        await asyncio.sleep(self.rng.uniform(0.5, CALM * 0.8))
        await act()

    def _one(self) -> str | None:
        return self.rng.choice(sorted(self.bridges)) if self.bridges else None

    async def _crash_one(self) -> None:
        if name := self._one():
            await self._crash(name)
            await asyncio.sleep(self.rng.uniform(0.0, 4.0))
            self._start()

    async def _stop_one(self) -> None:
        async with self._stopping:
            while self.gentle and not all(bridge.ready for bridge in self.bridges.values()):
                await asyncio.sleep(0.1)
            if name := self._one():
                await self._stop(name)
                await asyncio.sleep(self.rng.uniform(0.0, 2.0))
                self._start()

    async def _cut_one(self) -> None:
        if name := self._one():
            self.say(f"connections of {name} to Redis break")
            self.disturbed[name].append(self.loop.time())
            self.loop.network.cut(name=name, host=REDIS)

    async def _flaky_one(self) -> None:
        if name := self._one():
            self.say(f"connections of {name} to Redis break often")
            self.loop.network.flaky[name, REDIS] = 0.1
            for _ in range(4):
                self.disturbed[name].append(self.loop.time())
                await asyncio.sleep(1)
            self.loop.network.flaky.pop((name, REDIS), None)
            self.disturbed[name].append(self.loop.time())

    async def _flaky_producers(self) -> None:
        self.say("connections of producers to Redis break often")
        names = [(f"producer of {event.id}", REDIS) for event in self.events]
        self.loop.network.flaky.update(dict.fromkeys(names, 0.2))
        await asyncio.sleep(4)
        for name in names:
            self.loop.network.flaky.pop(name, None)

    async def _stall_one(self) -> None:
        if name := self._one():
            seconds = self.rng.uniform(0.5, 8.0)
            self.say(f"{name} and Redis do not hear each other for {seconds:.1f} s")
            self.disturbed[name].append(self.loop.time())
            self.loop.network.stalled[name, REDIS] = self.loop.time() + seconds
            await asyncio.sleep(seconds)
            self.disturbed[name].append(self.loop.time())

    async def _restart_redis(self) -> None:
        self.say("Redis restarts")
        seconds = self.rng.uniform(0.0, 4.0)
        self.loop.network.refusing.add(REDIS)
        self.loop.network.cut(host=REDIS)
        await asyncio.sleep(seconds)
        self.redis.restart()
        self.loop.network.refusing.discard(REDIS)
        for name in self.bridges:
            self.disturbed[name] += [self.loop.time() - seconds, self.loop.time()]

    async def _fail_over(self) -> None:
        async with self._failing_over:
            self.say("the replica of Redis falls behind")
            begin = self.loop.time()
            self.redis.fall_behind()
            await asyncio.sleep(self.rng.uniform(0.0, 2.0))
            self.say("Redis fails over")
            self.loop.network.refusing.add(REDIS)
            self.loop.network.cut(host=REDIS)
            self.redis.fail_over()
            self.undone.append((begin, self.loop.time()))
            await asyncio.sleep(self.rng.uniform(0.0, 4.0))
            self.loop.network.refusing.discard(REDIS)
            for name in self.bridges:
                self.disturbed[name] += [begin, self.loop.time()]

    async def _stage_away(self) -> None:
        host = host_of(self.rng.choice(sorted(EMITS)))
        self.say(f"{host} is away")
        self.away[host].append(self.loop.time())
        self.loop.network.refusing.add(host)
        self.loop.network.cut(host=host)
        await asyncio.sleep(self.rng.uniform(0.0, 5.0))
        self.loop.network.refusing.discard(host)
        self.away[host].append(self.loop.time())

    async def _function_dies(self) -> None:
        host = host_of(self.rng.choice(sorted(EMITS)))
        self.say(f"{host} dies")
        self.away[host].append(self.loop.time())
        self.loop.network.cut(host=host)

    # what must hold

    def _left(self) -> list[str]:
        """Return what has no effect yet."""
        taken = {(one.stage, one.id) for one in self.stages.deliveries if one.status == 200}
        dead = {(stage, event_id) for stage in EMITS for event_id in self._dead(stage)}
        done = taken | dead
        accepted = self._kept()
        needed = {(stage, event_id) for stage in ("first", "side") for event_id in accepted}
        needed |= {
            ("second", event_id) for stage, event_id in taken - dead if stage == "first" and event_id in accepted
        }
        left = [f"without effect: {event_id} at {stage}" for stage, event_id in sorted(needed - done)]
        counted = [("XLEN", keys.journal(channel)) for channel in sorted(set(CONSUMES.values()))]
        counted += [("XLEN", keys.retries(stage, channel)) for stage, channel in CONSUMES.items()]
        counted += [("ZCARD", keys.parked(stage)) for stage in CONSUMES]
        counted += [("ZCARD", keys.held(stage, channel)) for stage, channel in CONSUMES.items()]
        counted += [("HLEN", keys.in_hand(stage, channel)) for stage, channel in CONSUMES.items()]
        return left + [f"left in {key}" for command, key in counted if self.redis.call(command, key)]

    def _kept(self) -> set[str]:
        """Return the events that Redis may not lose. A failover may undo an adoption."""
        adopted = {event_id for ids in self._adopted().values() for event_id in ids}
        return self.accepted | (set() if self.undone else adopted)

    def _announced(self, channel: str) -> list[dict[str, Any]]:
        """Return what was announced on a channel, without what a failover has undone."""
        return [event for event, undone in self._all_announced(channel) if not undone]

    def _all_announced(self, channel: str) -> list[tuple[dict[str, Any], bool]]:
        """Return what was announced on a channel, each with whether a failover has undone it."""
        return [
            (json.loads(data), self._is_undone(at))
            for at, on, data in self.redis.published
            if on == channel.encode() and data.startswith(JOURNAL_MARK)
        ]

    def _is_undone(self, at: float) -> bool:
        return any(begin <= at <= end for begin, end in self.undone)

    def _adopted(self) -> dict[str, set[str]]:
        """Return the ids that each plain message got."""
        found: dict[str, set[str]] = {text: set() for text in self.plain}
        for one in self.stages.deliveries:
            if isinstance(one.data, str):
                found[one.data].add(one.id)
        return found

    def _dead(self, stage: str) -> Counter[str]:
        rows = self.redis.call("XRANGE", keys.dead(stage), "-", "+")
        return Counter(dict(zip(row[::2], row[1::2], strict=True))[b"id"].decode() for _, row in rows)

    def _check(self) -> None:
        self._check_dead_letters()
        self._check_accepted()
        self._check_adopted()
        self._check_announced_once()
        self._check_answers()
        self._check_overlaps()
        self._check_recovery()
        for stage in self.ordered:
            self._check_order(stage)
        self._check_keys()

    def _check_dead_letters(self) -> None:
        failed = Counter((one.stage, one.id) for one in self.stages.deliveries if one.status in {0, 500})
        for stage in EMITS:
            for event_id, times in self._dead(stage).items():
                refused = stage == "first" and event_id.startswith("refused")
                if times > 1 or not (refused or failed[stage, event_id] > RETRY):
                    self._note(f"{times} dead letters of {event_id} at {stage}: {failed[stage, event_id]} failures")

    def _check_accepted(self) -> None:
        known = {event.id for event in self.events} | {one for ids in self._adopted().values() for one in ids}
        for one in self.stages.deliveries:
            if one.id not in known:
                self._note(f"not published: {one.id} at {one.stage}")

    def _check_adopted(self) -> None:
        for text, ids in self._adopted().items():
            if len(ids) > 1 or (self.gentle and not ids):
                self._note(f"adopted {len(ids)} times: {text}")

    def _check_announced_once(self) -> None:
        for channel in ("in", *(channel for channels in EMITS.values() for channel in channels)):
            for event_id, times in Counter(event["id"] for event in self._announced(channel)).items():
                if times > 1:
                    self._note(f"published {times} times: {event_id} on {channel}")

    def _check_answers(self) -> None:
        taken = {(one.stage, one.id) for one in self.stages.deliveries if one.status == 200}
        dead = {(stage, event_id) for stage in EMITS for event_id in self._dead(stage)}
        kept = {event_id for stage, event_id in taken - dead if stage == "side"} & self._kept()
        split = {piece for event_id in kept for piece in pieces_of(event_id)}
        announced = {event["id"] for event in self._announced("piece")}
        if announced - {piece for stage, event_id in taken if stage == "side" for piece in pieces_of(event_id)}:
            self._note("pieces were published of an event that was not split")
        if missing := split - announced:
            self._note(f"pieces were not published: {sorted(missing)}")
        for channel in EMITS["second"]:
            if wrong := [event["id"] for event in self._announced(channel) if channel_of(event["id"]) != channel]:
                self._note(f"published on {channel} in place of the other channel: {wrong}")

    def _check_overlaps(self) -> None:
        for earlier, later in self.stages.overlaps:
            what = f"{later.id} is with {later.stage} twice at {later.begin:.3f}"
            if any(earlier.begin - CLAIM <= end <= later.begin for _, end in self.undone):
                continue  # its producer has published it again, or it is unread again
            if earlier.bridge == later.bridge:
                if not self._had_another(earlier, later):
                    self._note(f"{what}, both from {later.bridge}")
            elif not any(
                earlier.begin - CLAIM <= at <= later.begin
                for at in self.disturbed[earlier.bridge] + self.disturbed[later.bridge]
            ):
                self._note(f"{what}, from {earlier.bridge} and {later.bridge}, which had no trouble")

    def _had_another(self, earlier: Delivery, later: Delivery) -> bool:
        """Whether another bridge had this event, and may have settled it late: as a failure, so that it was retried."""
        return any(
            earlier.begin - CLAIM <= one.begin
            or any(one.begin <= at <= later.begin for at in self.disturbed[one.bridge])
            for one in self.stages.deliveries
            if (one.stage, one.id) == (later.stage, later.id)
            and one.bridge != later.bridge
            and one.begin <= later.begin
        )

    def _check_recovery(self) -> None:
        for at, sent, others in self.crashes:
            alive = [name for name in others if not _within(self.disturbed[name], at)]
            for lost in sent:
                if any(not self._has_trouble(lost.stage, name, at) for name in alive):
                    self._check_redelivery(lost, at)

    def _has_trouble(self, stage: str, bridge: str, at: float) -> bool:
        """Whether a bridge may have held this stage to be down around that time."""
        bad = [
            one.end
            for one in self.stages.deliveries
            if (one.stage, one.bridge) == (stage, bridge) and one.status in {0, 503} and one.end
        ]
        return _within([*bad, *self.away[host_of(stage)]], at)

    def _check_redelivery(self, lost: Delivery, at: float) -> None:
        of_stage = [one for one in self.stages.deliveries if one.stage == lost.stage]
        same = [one for one in of_stage if one.id == lost.id and one is not lost]
        if any((one.status == 200 and one.begin <= at) or one.begin <= at <= (one.end or at) for one in same):
            return  # another bridge had taken it over before
        again = min((one.begin for one in same if one.begin > at), default=math.inf)
        what = f"{lost.id} at {lost.stage}, with a bridge that crashed at {at:.3f}"
        if again > at + AGAIN_WITHIN:
            self._note(f"delivered again late: {what}: at {again:.3f}")
        earlier = {one.id for one in of_stage if one.begin <= at + AGAIN_WITHIN - 0.5}
        if newer := {one.id for one in of_stage if one.begin < again} - earlier - {lost.id}:
            self._note(f"newer events were delivered before it: {what}: {sorted(newer)}")

    def _check_order(self, stage: str) -> None:
        announced = self._all_announced(CONSUMES[stage])
        again = {event["id"] for event, undone in announced if undone}
        journal = sorted((event for event, undone in announced if not undone), key=_position)
        deliveries: defaultdict[str, list[Delivery]] = defaultdict(list)
        for one in self.stages.deliveries:
            if one.stage == stage:
                deliveries[one.id].append(one)
        dead = self._dead(stage)
        for key in KEYS:
            ids = [event["id"] for event in journal if _key_of(event["data"]) == key]
            finished = {one: _finished(deliveries[one], dead=one in dead) for one in ids}
            for place, later in enumerate(ids):
                if later in again:
                    continue
                for earlier in ids[:place]:
                    self._check_pair(deliveries[earlier], deliveries[later], finished[earlier])

    def _check_pair(self, earlier: Sequence[Delivery], later: Sequence[Delivery], finished: float) -> None:
        """Check all deliveries of two events of a key. `finished`: when the stage had finished the earlier one."""
        for one in later:
            if one.begin < finished:
                self._note(f"out of order: {one.id} is with {one.stage} at {one.begin:.3f}, before an earlier event")
        for one in earlier:
            begun = earlier[0].begin
            if (
                later
                and later[0].begin < one.begin
                and not (
                    any(begun - CLAIM <= at <= one.begin for at in self.disturbed[one.bridge])
                    or any(begun <= end <= one.begin for _, end in self.undone)
                )
            ):
                self._note(f"out of order: {one.id} is with {one.stage} at {one.begin:.3f}, after {later[0].id}")

    def _check_keys(self) -> None:
        for key in sorted(self.redis.call("KEYS", "*")):
            name = key.decode()
            counted = name.startswith((keys.journal(""), keys.RETRIES, keys.dead("")))
            if name not in BOUNDED and not counted and self.redis.call("PTTL", key) == -1:
                self._note(f"neither counted nor expires: {name}")

    def _note(self, what: str) -> None:
        self.result.violations.append(what)


def _either(planned: Any, decided: Any) -> Any:
    return decided if planned is None else planned


def _position(event: dict[str, Any]) -> tuple[int, ...]:
    """Return the place of an event in the journal."""
    return tuple(map(int, event["journalid"].split("-")))


def _key_of(data: Any) -> str | None:
    return data.get(KEY) if isinstance(data, dict) else None


def _finished(deliveries: Sequence[Delivery], *, dead: bool) -> float:
    """Return when the stage had answered for the last time that was needed: with 2xx, or as often as a dead letter
    takes.
    """
    taken = [one.end for one in deliveries if one.end and one.status == 200]
    refused = [one.end for one in deliveries if one.end and one.status == 400]
    failed = [one.end for one in deliveries if one.end and one.status in {0, 500}]
    ends = taken + (refused + sorted(failed)[RETRY:] if dead else [])
    return min(ends, default=math.inf)


def _within(times: list[float], crash: float) -> bool:
    """Whether one of these times lies around a crash and the redeliveries after it."""
    return any(crash - LONGEST <= at <= crash + AGAIN_WITHIN for at in times)


def _settings(batch: int, ordered: Sequence[str]) -> BridgeSettings:
    routes = [
        {
            "name": stage,
            "consumes": CONSUMES[stage],
            "emits": EMITS[stage],
            "split": stage in SPLITS,
            "url": f"http://{host_of(stage)}/",
            "retry": RETRY,
            "crashRetry": RETRY,
            "backoffDelay": "PT0.1S",
            "timeout": "PT5S",
            "batch": batch,
            "order": KEY if stage in ordered else False,
            "wake": "off",  # no stage here is ever at zero
        }
        for stage in EMITS
    ]
    return BridgeSettings.read(
        redis_url=URL,
        routes=routes,
        claim=timedelta(seconds=CLAIM),
        lease=timedelta(seconds=2),
        grace=timedelta(seconds=1),
        window=16,
    )
