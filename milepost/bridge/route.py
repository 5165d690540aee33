"""A route: a stage and the URL at which it is reached. Reads its journals, delivers, settles."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from itertools import chain

from milepost.bridge.client import Client, Lost, NotSent, TooLarge
from milepost.bridge.metrics import Metrics
from milepost.bridge.settings import Delivery
from milepost.bridge.verdict import Crashed, Deferred, Delivered, Failed, Refused, RouteDown, Verdict, judge
from milepost.bridge.window import Window
from milepost.errors import EventError, JournalUnavailable
from milepost.event import STRUCTURED_TYPE, Event
from milepost.journal import Act, Bury, Complete, Entry, Group, Letter, Park

log = logging.getLogger("milepost.bridge")

LONGEST_BACKOFF = 60.0
"""Seconds between two deliveries of one event, at most."""

LONGEST_PROBE = 2.0
"""Seconds between two probes of a route that is down, unless its Retry-After says otherwise."""

BLOCK = 5.0
"""Seconds a read waits for the first entry."""

BROKEN_AFTER = 20
BROKEN_EVENTS = 10
"""When this many deliveries in a row, of at least so many different events, failed, the stage is broken."""

SUSPECT_AFTER = 2
"""Failures after which an event says nothing of its stage any more. Without this a few poison events that are left
alone would look like a broken stage, and never be buried.
"""

HAND_BACK_WITHIN = 1.0
"""Seconds a clean stop gives a Redis that does not answer; what is not handed back is taken over later."""

TOLD_EVERY = 120
"""Tries to settle one delivery of which one is logged."""

UNREACHABLE_PAUSE = 0.25
"""Seconds between two tries to reach a Redis that is away."""


class Route:
    """Carries the entries of `groups` to one URL, `window` of them at a time."""

    def __init__(
        self,
        name: str,
        groups: Sequence[Group],
        *,
        client: Client,
        emits: str | None,
        delivery: Delivery,
        window: int,
        metrics: Metrics,
        parked: asyncio.Event,
    ) -> None:
        self.name = name
        self.groups = groups
        self.window = Window(window, backoff=self._probe_delay)
        self.held: dict[Group, dict[str, asyncio.Task[None]]] = {group: {} for group in groups}
        self.dirty: set[str] = set()
        self._client = client
        self._emits = emits
        self._delivery = delivery
        self._metrics = metrics
        self._parked = parked
        self._failures: deque[str] = deque(maxlen=BROKEN_AFTER)
        self._settling: set[str] = set()
        self._cursors = dict.fromkeys(groups, "0-0")

    def parts(self) -> Iterable[Coroutine[None, None, None]]:
        """What reads and delivers until cancelled; what is on the wire then stays there (see `finish`)."""
        return [self._read(group) for group in self.groups]

    async def _read(self, group: Group) -> None:
        while True:
            free = await self.window.room()
            try:
                entries = await group.read(free, block=BLOCK)
                if entries is None:
                    made = await group.ensure()
                    log.warning(
                        "stage=%s channel=%s outcome=group-%s", self.name, group.channel, "made" if made else "there"
                    )
                    continue
            except JournalUnavailable as fault:
                log.warning("stage=%s channel=%s outcome=unread reason=%r", self.name, group.channel, str(fault))
                await self._reread(group)
                continue
            self._take(group, entries)

    async def _reread(self, group: Group) -> None:
        """After a read that failed: take up what its lost answer may have carried, as soon as Redis is back."""
        while True:
            await asyncio.sleep(UNREACHABLE_PAUSE)
            try:
                self._take(group, await group.reread() or [])
            except JournalUnavailable:
                continue
            log.info("stage=%s channel=%s outcome=reading-again", self.name, group.channel)
            return

    def _take(self, group: Group, entries: Iterable[Entry]) -> None:
        held = self.held[group]
        for entry in entries:
            if entry.id not in held:
                held[entry.id] = asyncio.create_task(self._carry(group, entry, self.window.take()))

    async def _carry(self, group: Group, entry: Entry, epoch: int) -> None:
        try:
            if entry.only in {"", self.name}:
                act = await self._deliver(entry)
            else:
                act = Complete(entry, None)
            await self._settle(group, act)
        except Exception:
            log.exception("stage=%s entry=%s outcome=left-to-takeover", self.name, entry.id)
        finally:
            del self.held[group][entry.id]
            self.dirty.add(group.channel)
            self.window.settled(epoch)

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
                    log.warning("stage=%s entry=%s outcome=unsettled reason=%r", self.name, act.entry.id, str(fault))
                tries += 1
                await asyncio.sleep(UNREACHABLE_PAUSE)
                continue
            break
        if isinstance(act, Park) and answer == "done":
            self._parked.set()
        if answer == "stale":
            self._metrics.stale.labels(self.name).inc()
        elif answer == "buried":
            log.warning("stage=%s id=%s outcome=buried reason=%r", self.name, act.letter.id, act.letter.reason)  # type: ignore[union-attr]
            self._metrics.dead.labels(self.name).inc()

    async def _deliver(self, entry: Entry) -> Act:
        epoch = await self.window.enter()
        try:
            with self._metrics.seconds.labels(self.name).time():
                verdict = await self._post(entry)
        finally:
            self.window.leave(epoch)
        self._metrics.deliveries.labels(self.name, type(verdict).__name__.lower()).inc()
        if isinstance(verdict, Delivered):
            self._failures.clear()
            self.window.succeeded()
            return Complete(entry, verdict.reply)
        return self._rule(entry, epoch, verdict)

    async def _post(self, entry: Entry) -> Verdict:
        timeout = self._delivery.timeout.total_seconds()
        try:
            answer = await self._client.post(entry.event, content_type=STRUCTURED_TYPE, timeout=timeout)
            return judge(answer.status, answer.headers, answer.body, emits=self._emits)
        except NotSent as fault:
            return RouteDown(None, str(fault))
        except Lost as fault:
            return Crashed(str(fault))
        except TooLarge as fault:
            if self._emits is None or not 200 <= fault.status < 300:
                return judge(fault.status, {}, b"", emits=self._emits)
            return Failed(fault.status, f"unusable reply: {fault}")
        except Exception as fault:
            # Ours, but this event's too: counted, or it would come again for ever.
            log.exception("stage=%s entry=%s outcome=not-posted", self.name, entry.id)
            return Failed(None, f"the bridge failed at it: {type(fault).__name__}")

    def _rule(self, entry: Entry, epoch: int, verdict: Refused | Deferred | Failed | Crashed | RouteDown) -> Act:
        """What becomes of an event that was not delivered."""
        event_id = _event_id(entry)
        log.info(
            "stage=%s id=%s outcome=%s reason=%r", self.name, event_id, type(verdict).__name__.lower(), verdict.reason
        )

        def letter(attempts: int = 0, crashes: int = 0) -> Letter:
            reason = verdict.reason.encode(errors="replace").decode()
            return Letter(event_id, reason, verdict.status, entry.attempts + attempts, entry.crashes + crashes)

        match verdict:
            case Refused():
                self._answered()
                return Bury(entry, letter())
            case Deferred():
                self._answered()
                return Park(entry, letter(), verdict.retry_after)
            case RouteDown() as down:
                return Park(entry, letter(), self.window.failed(epoch, down.retry_after))
        if entry.attempts + entry.crashes < SUSPECT_AFTER:
            self._failures.append(event_id)
        if self._broken():
            return Park(entry, letter(), self.window.failed(epoch, verdict.retry_after))
        counted = letter(attempts=1) if isinstance(verdict, Failed) else letter(crashes=1)
        if counted.attempts > self._delivery.retry or counted.crashes > self._delivery.crash_retry:
            return Bury(entry, counted)
        wait = self._backoff(counted.attempts + counted.crashes) if verdict.retry_after is None else verdict.retry_after
        return Park(entry, counted, wait)

    def _answered(self) -> None:
        """The stage judged an event: it is neither away nor broken."""
        self._failures.clear()
        self.window.succeeded()

    def _broken(self) -> bool:
        return len(self._failures) == BROKEN_AFTER and len(set(self._failures)) >= BROKEN_EVENTS

    def _backoff(self, failures: int, longest: float = LONGEST_BACKOFF) -> float:
        """Seconds until delivery number `failures` + 1: Knative's backoffPolicy, capped, with equal jitter."""
        delay = self._delivery.backoff_delay.total_seconds()
        if self._delivery.backoff_policy == "linear":
            delay *= failures
        else:
            delay *= 2.0 ** min(failures - 1, 30)
        delay = min(delay, longest)
        return random.uniform(delay / 2, delay)  # noqa: S311 - jitter

    def _probe_delay(self, strikes: int) -> float:
        return self._backoff(strikes, LONGEST_PROBE)

    async def keep(self, *, claim: float) -> None:
        """Renew what is held, drop what is no longer ours, then take over what nobody renews.

        Raises JournalUnavailable.
        """
        for group in self.groups:
            held = self.held[group]
            if held:
                for lost in await group.renew(list(held)):
                    if lost in held and lost not in self._settling:  # what we settled ourselves is not lost
                        log.warning("stage=%s entry=%s outcome=lost-claim", self.name, lost)
                        held[lost].cancel()
            if self.window.free:
                cursor, entries, destroyed = await group.takeover(
                    self.window.free, claim=claim, held=list(held), cursor=self._cursors[group]
                )
                self._cursors[group] = cursor
                self._metrics.destroyed.labels(self.name).inc(destroyed)
                if entries:
                    log.info(
                        "stage=%s channel=%s outcome=taken-over entries=%d", self.name, group.channel, len(entries)
                    )
                self._take(group, entries)
            await group.reap(idle=claim)

    async def finish(self, *, grace: float, claim: float) -> None:
        """Let what is on the wire finish for `grace` seconds, then hand the rest back."""
        tasks = list(chain.from_iterable(held.values() for held in self.held.values()))
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self.window.close()
        await self._client.close()
        try:
            async with asyncio.timeout(HAND_BACK_WITHIN):
                for group in self.groups:
                    await group.hand_back(claim=claim)
        except (JournalUnavailable, TimeoutError) as fault:
            log.warning("stage=%s outcome=not-handed-back reason=%r", self.name, str(fault))


def _event_id(entry: Entry) -> str:
    try:
        return Event.from_json(entry.event).id
    except EventError:
        return ""
