"""A route: a stage and the URL at which it is reached. Reads its journals, delivers, settles."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from milepost.bridge.client import Client
from milepost.bridge.metrics import RouteMetrics
from milepost.bridge.ruling import Ruling, event_id
from milepost.bridge.sender import Sender
from milepost.bridge.settings import Delivery
from milepost.bridge.together import Alone
from milepost.bridge.verdict import Crashed, Delivered, Verdict
from milepost.bridge.window import Limits, Window
from milepost.errors import JournalUnavailable
from milepost.journal import Act, Bury, Complete, Entry, Group, Hold, Park
from milepost.log import Fields

log = logging.getLogger("milepost.bridge")

BLOCK = 5.0
"""Seconds a read waits for the first entry."""

HAND_BACK_WITHIN = 1.0
"""Seconds a clean stop gives a Redis that does not answer; what is not handed back is taken over later."""

TOLD_EVERY = 120
"""Tries to settle one delivery of which one is logged."""

UNREACHABLE_PAUSE = 0.25
"""Seconds between two tries to reach a Redis that is away."""


Said = TypeVar("Said")


class When(NamedTuple):
    """When something was sent and when it was answered, in seconds, and the window's epoch at the time of sending."""

    began: float
    ended: float
    epoch: int


class Route:
    """Carries the entries of `groups`, which bear its name, to one URL. `parked` is set when one was parked, `beat`
    shows the routes in the stages table.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        client: Client,
        emits: str | None,
        delivery: Delivery,
        limits: Limits,
        metrics: RouteMetrics,
        parked: asyncio.Event,
        beat: Callable[[], Awaitable[None]],
    ) -> None:
        self.name = groups[0].name
        self.groups = groups
        self._ruling = Ruling(self.name, delivery)
        self._sender = Sender(client, self.name, delivery=delivery, emits=emits)
        self.window = Window(limits, backoff=self._ruling.probe_delay)
        self.held: dict[Group, dict[str, asyncio.Task[None]]] = {group: {} for group in groups}
        self.dirty: set[str] = set()
        self._delivery = delivery
        self._metrics = metrics
        self._parked = parked
        self._beat = beat
        self._by_channel = {group.channel: group for group in groups}
        self._settling: set[str] = set()
        self._cursors = dict.fromkeys(groups, "0-0")

    def parts(self) -> Iterable[Coroutine[None, None, None]]:
        """What reads and delivers until cancelled; what is on the wire then stays there (see `finish`)."""
        return [self._read(*self.groups)]

    async def _read(self, first: Group, *others: Group) -> None:
        """All groups in one command, so that there is one reader for one window: each is given its share of the room,
        and one entry at least.
        """
        while True:
            free = await self.window.room()
            try:
                entries = await first.read(max(1, free // len(self.groups)), block=BLOCK, beside=others)
                if entries is None:
                    await self._heal()
                    continue
            except JournalUnavailable as fault:
                log.warning(Fields(stage=self.name, outcome="unread", reason=str(fault)))
                await self._reread()
                continue
            self._take(entries)
            await asyncio.sleep(0)  # what was read leaves before more is asked for

    async def _heal(self) -> None:
        """A group is gone, and the stages table too if all of Redis was emptied."""
        await self._beat()
        for group in self.groups:
            if await group.ensure():
                log.warning(Fields(stage=self.name, channel=group.channel, outcome="group-made"))

    async def _reread(self) -> None:
        """After a read that failed: take up what its lost answer may have carried, as soon as Redis is back."""
        while True:
            await asyncio.sleep(UNREACHABLE_PAUSE)
            try:
                for group in self.groups:
                    self._take(await group.reread() or [])
            except JournalUnavailable:
                continue
            log.info(Fields(stage=self.name, outcome="reading-again"))
            return

    def _take(self, entries: Sequence[Entry]) -> None:
        several = len(entries) > 1
        for entry in entries:
            group = self._by_channel[entry.channel]
            held = self.held[group]
            if entry.id not in held:
                task = held[entry.id] = asyncio.create_task(self._carry(group, entry, several=several))
                epoch = self.window.take(len(entry.event))
                task.add_done_callback(partial(self._let_go, group, entry, epoch))

    def _let_go(self, group: Group, entry: Entry, epoch: int, _task: "asyncio.Task[None]") -> None:
        """After a delivery, and not at its end: one that is cancelled before it began has none."""
        del self.held[group][entry.id]
        self.dirty.add(group.channel)
        self.window.settled(epoch, len(entry.event))

    async def _carry(self, group: Group, entry: Entry, *, several: bool) -> None:
        try:
            act: Act
            if self._delivery.delay and not entry.only:
                act = Hold(entry, self._delivery.delay.total_seconds())
            elif entry.only in {"", self.name}:
                act = await self._deliver(entry, several=several)
            else:
                act = Complete(entry, None)
            await self._settle(group, act)
        except Exception:
            log.exception(self._line(entry, "left-to-takeover"))

    def _line(self, entry: Entry, outcome: str, **more: Any) -> Fields:
        """For the log. The event is read for its id: where lines are few, or asked for."""
        return Fields(
            stage=self.name, channel=entry.channel, id=event_id(entry), entry=entry.id, outcome=outcome, **more
        )

    async def _settle(self, group: Group, act: Act) -> None:
        self._settling.add(act.entry.id)
        try:
            await self._settle_until_done(group, act)
        finally:
            self._settling.discard(act.entry.id)

    async def _settle_until_done(self, group: Group, act: Act) -> None:
        tries = 0
        while True:
            try:
                answer = await group.settle(act)
            except JournalUnavailable as fault:
                if not tries % TOLD_EVERY:
                    log.warning(self._line(act.entry, "unsettled", reason=str(fault)))
                tries += 1
                await asyncio.sleep(UNREACHABLE_PAUSE)
                continue
            break
        if isinstance(act, Park | Hold) and answer == "done":
            self._parked.set()
        if answer == "stale":
            self._metrics.stale.inc()
        elif answer == "buried" and isinstance(act, Park | Bury):
            letter = act.letter
            log.warning(
                Fields(stage=self.name, channel=act.entry.channel, id=letter.id, outcome="buried", status=letter.status)
            )
            self._metrics.dead.inc()

    async def _deliver(self, entry: Entry, *, several: bool) -> Act:
        """`several`: others were read with it, and so may go with it."""
        if several and self._sender.gathers and self._is_fresh(entry):
            said, when = await self._send(entry, self._sender.together)
            if not isinstance(said, Alone):
                return self._act(entry, said, when)
            if said.timed_out:
                self.window.timed_out(when.began, when.ended)
        verdict, when = await self._send(entry, self._sender.alone)
        return self._act(entry, verdict, when)

    async def _send(self, entry: Entry, send: Callable[[Entry], Awaitable[Said]]) -> tuple[Said, When]:
        epoch = await self.window.enter()
        began = time.perf_counter()  # uvloop's clock keeps whole milliseconds
        self._metrics.began()
        try:
            said = await send(entry)
        finally:
            self._metrics.ended()
            self.window.leave(epoch)
        return said, When(began, time.perf_counter(), epoch)

    def _act(self, entry: Entry, verdict: Verdict, when: When) -> Act:
        self._metrics.judged(verdict, when.began, when.ended)
        if isinstance(verdict, Delivered):
            if log.isEnabledFor(logging.DEBUG):
                log.debug(self._line(entry, "delivered"))
            self._ruling.succeeded()
            self.window.succeeded(when.ended - when.began, when.epoch)
            return Complete(entry, verdict.reply)
        if isinstance(verdict, Crashed) and verdict.timed_out:
            self.window.timed_out(when.began, when.ended)
        return self._ruling.act(entry, verdict, self.window, when.epoch)

    def _is_fresh(self, entry: Entry) -> bool:
        """Whether nothing went wrong with it yet. What was woken has failed, counted or not, but where all are woken
        for their delay.
        """
        return not entry.only or (bool(self._delivery.delay) and not entry.attempts + entry.crashes)

    async def keep(self, *, claim: float) -> None:
        """Renew what is held, drop what is no longer ours, then take over what nobody renews.

        Raises JournalUnavailable.
        """
        for group in self.groups:
            held = self.held[group]
            if held:
                await self._drop(group.channel, held, await group.renew(list(held)))
            if self.window.free:
                cursor, entries, destroyed = await group.takeover(
                    self.window.free, claim=claim, held=list(held), cursor=self._cursors[group]
                )
                self._cursors[group] = cursor
                self._metrics.destroyed.inc(destroyed)
                if entries:
                    log.info(Fields(stage=self.name, channel=group.channel, outcome="taken-over", entries=len(entries)))
                self._take(entries)
            await group.reap(idle=claim)

    async def _drop(self, channel: str, held: Mapping[str, asyncio.Task[None]], lost: Iterable[str]) -> None:
        """End the deliveries of what is no longer ours; but for what we are settling, or have settled, ourselves."""
        under_way = {entry: held[entry] for entry in lost if entry in held and entry not in self._settling}
        dropped = {entry: task for entry, task in under_way.items() if not task.done()}
        for entry, task in dropped.items():
            log.warning(Fields(stage=self.name, channel=channel, entry=entry, outcome="lost-claim"))
            task.cancel()
        if dropped:
            await asyncio.wait(dropped.values())

    async def finish(self, *, grace: float, claim: float) -> None:
        """Let what is on the wire finish for `grace` seconds, then hand the rest back."""
        tasks = list(chain.from_iterable(held.values() for held in self.held.values()))
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self.window.close()
        await self._sender.close()
        try:
            async with asyncio.timeout(HAND_BACK_WITHIN):
                for group in self.groups:
                    await group.hand_back(claim=claim)
        except (JournalUnavailable, TimeoutError) as fault:
            log.warning(Fields(stage=self.name, outcome="not-handed-back", reason=str(fault)))
