"""Delivers the events of one route and channel: a loop reads entries, and a task delivers each of them.

The loop:

1. Wait for room under the concurrency limit, or until step 2 is due.
2. Once a second, take over entries that another bridge has not renewed for the claim time: redeliveries. They need no
   room, because the bridge that died had counted them under its limit; but while the route is down one is the probe.
3. Otherwise block until an event comes, or until step 2 is due. One read brings retries (parked and delayed events that
   are due, replayed dead letters) and unread events: up to the room of each kind, so perhaps twice the room. A stage
   that is ordered by key is read by a script; for it the wait shows only that there is something to read.
4. If a read brought retries there may be more. Then reads do not block, and bring unread events only into the room that
   the retries leave, until one brings an unread event, or nothing. But four times a second a read brings unread events
   first: events that the stage puts off again and again keep no others from it.

Each task:

5. Waits until the limit lets it send. POSTs one event, or a batch.
6. Decides how to settle each event by the outcome; for a failure it asks the retry policy.

Another task settles the entries:

7. It settles all entries that are decided on in one round trip. Entries that are decided on meanwhile share the next
   round trip, which begins at least 2 ms after the one before.
8. If Redis settles some of them and not the others, a task of its own tries the others again, four times a second.
   If it settles none, Redis is probably away: step 7 goes on 0.25 s later.

While the stage is paused, steps 1 and 5 wait.

Entries stay pending until they are settled. The bridge renews its claim on them until it has ended. If it dies, step 2
of another bridge finds them. A redelivery is not counted as a failure.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakSet

from milepost.bridge.concurrency import MOST_EXTRA, ConcurrencyLimit
from milepost.bridge.delivery import Deliverer, event_id
from milepost.bridge.failure_log import FailureLog
from milepost.bridge.metrics import StageMetrics
from milepost.bridge.outcome import Crashed, Delivered, Failed, Outcome, RouteDown, Undecided
from milepost.bridge.retry import GiveUp, Retry, RetryPolicy, RetryWhenUp
from milepost.bridge.settings import DeliverySpec
from milepost.bridge.wake import Silence
from milepost.errors import EventError, JournalUnavailable, MilepostError
from milepost.journal import Bury, Complete, Consumer, Delay, Entry, GroupMissing, Park, Settlement, Split
from milepost.journal.refusals import OF_KEYS
from milepost.observe.logs import Fields

log = logging.getLogger("milepost.bridge")

BLOCK = 5.0
"""Seconds that a read waits for the first entry, at most."""

LOOK_EVERY = 1.0
"""Seconds between two looks for redeliveries."""

SETTLE_WITHIN = 0.5
"""Least seconds that a clean stop gives to settlements, also when a delivery has used up GRACE."""

HAND_BACK_WITHIN = 1.0
"""Seconds that a clean stop gives a Redis that does not answer; entries not handed back are taken over later."""

LOG_OUTAGE_EVERY = 60.0
"""Seconds between two log lines about the same outage of a route."""

UNREAD_EVERY = 0.25
"""Seconds after which a read brings unread events, however many retries there are."""

TRY_AGAIN_AFTER = 0.25
"""Seconds between two tries to reach a Redis that is away."""

PACE = 0.002
"""Least seconds between two round trips that settle entries: settlements that come faster share one."""


# Tuples for isinstance, made once: `A | B` would be made anew for each event.
UNANSWERED = (RouteDown, Crashed, Undecided)
"""Outcomes that do not show that the stage runs: no response, or one that a proxy may have given."""

DELIVERED = (Complete, Split)
"""Settlements of an event that was delivered."""


class Sent(NamedTuple):
    """When a request was sent and answered, in seconds, the number of the latest outage when it was sent, and how many
    events it had.
    """

    began: float
    ended: float
    outage: int
    events: int


class Worker:
    """Delivers the entries of `consumer` to its route.

    It sets `newly_parked` when it has parked an event. It calls `register` when its groups are missing, so that the
    bridge writes the stages table again.
    """

    def __init__(  # noqa: PLR0913 - the parts of a worker
        self,
        consumer: Consumer,
        *,
        deliverer: Deliverer,
        policy: RetryPolicy,
        limit: ConcurrencyLimit,
        spec: DeliverySpec,
        claim: float,
        metrics: StageMetrics,
        silence: Silence,
        newly_parked: asyncio.Event,
        register: Callable[[], Awaitable[None]],
    ) -> None:
        self.stage = consumer.stage
        self.consumer = consumer
        self.limit = limit
        self.in_delivery: dict[tuple[str, str], tuple[Entry, asyncio.Task[None], int, bool]] = {}
        """Entries that were read and are not settled: entry, task, number of the outage, whether it is a redelivery."""
        self._to_settle: list[Settlement] = []
        self._settler: asyncio.Task[None] | None = None
        self._settle_at = -math.inf
        self._unsettled: list[Settlement] = []
        """Settlements for which Redis was not available, kept apart from the others."""
        self._unsettled_settler: asyncio.Task[None] | None = None
        self._replaced: set[tuple[str, str]] = set()
        """Entries whose settlement Redis refused, and that got another one."""
        self._to_trim: set[str] = set()
        self._deliverer = deliverer
        self._policy = policy
        self._delay = spec.delay.total_seconds()
        self._claim = claim
        self._metrics = metrics
        self._silence = silence
        self._newly_parked = newly_parked
        self._register = register
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._paused = WeakSet[asyncio.Future[Any]]()
        """The end of the pause, once for each delivery that waits for it; `finish` cancels them."""
        self._outage_logged = -LOG_OUTAGE_EVERY
        self._reads_fail = False
        """Whether the latest read failed."""
        self._read_failures = FailureLog(stage=self.stage, channel=consumer.channel, outcome="unread")
        self._settle_failures = FailureLog(stage=self.stage, channel=consumer.channel, outcome="unsettled")

    async def open(self) -> None:
        """Make the groups where they are missing. Raises JournalUnavailable.

        A key that Redis refuses is this stage's fault alone: `run` reports it, and the other stages start.
        """
        try:
            await self.consumer.ensure()
        except JournalUnavailable as fault:
            if fault.code not in OF_KEYS:
                raise

    async def run(self) -> None:
        """Redeliver, read and deliver until cancelled. Deliveries then go on (see `finish`)."""
        now = asyncio.get_running_loop().time
        look_at, unread_at, retries = now(), now(), False
        while True:
            await self._resumed.wait()
            free = await self.limit.room(look_at - now())
            due = now() >= look_at
            try:
                if due:
                    extra = self.limit.extra
                    # As many as were asked for: there may be more, so look again at once, unless they have many bytes.
                    more = await self._take_over(free + extra) == free + extra
                    if not more or extra < MOST_EXTRA:
                        look_at = now() + LOOK_EVERY
                elif free and retries and now() < unread_at:
                    entries = await self.consumer.take(free)
                    retries = any(entry.retried for entry in entries[-1:])  # no unread event came after them
                    self._start(entries)
                elif free and retries:
                    self._start(await self.consumer.take_unread(free))
                    unread_at = now() + UNREAD_EVERY
                elif free:
                    entries = await self.consumer.wait(free, block=min(BLOCK, look_at - now()))
                    retries = any(entry.retried for entry in entries[:1])  # they come first
                    unread_at = now() + UNREAD_EVERY
                    self._start(entries)
                if free or due:
                    self._can_read()
            except GroupMissing:
                await self._make_groups()
            except JournalUnavailable as fault:
                self._cannot_read(fault)
                await self._reread()
            await asyncio.sleep(0)  # let the new tasks send before the next read

    async def _take_over(self, most: int) -> int:
        """Take over up to so many entries of dead bridges and start their delivery. Returns how many were taken over.

        Of its own entries it leaves out those that it had before: see `_start_lost`.
        """
        before = set(self.in_delivery)
        taken = await self.consumer.take_over(most, claim=self._claim)
        redelivered = [entry for entry in taken.entries if entry.key not in before]
        self._metrics.destroyed += taken.destroyed
        if redelivered:
            log.info(Fields(stage=self.stage, outcome="redelivered", entries=len(redelivered)))
        self._start(redelivered, redelivery=True)
        return len(taken.entries)

    def _cannot_read(self, fault: JournalUnavailable | GroupMissing) -> None:
        """Show in the metrics that this stage's events wait, and log why."""
        self._metrics.unread += not self._reads_fail
        self._reads_fail = True
        self._read_failures.failed(fault)

    def _can_read(self) -> None:
        if self._reads_fail:
            log.info(Fields(stage=self.stage, outcome="reading-again"))
            self._metrics.unread -= 1
            self._reads_fail = False
            self._read_failures.succeeded()

    async def _make_groups(self) -> None:
        """Make the groups again, and the stages table, which is gone too if Redis was emptied."""
        try:
            await self._register()
            if await self.consumer.ensure():
                log.warning(Fields(stage=self.stage, outcome="groups-made"))
            # A take may have read one stream before it failed at the missing group of the next.
            await self._start_lost()
        except (GroupMissing, JournalUnavailable) as fault:
            self._cannot_read(fault)
            await asyncio.sleep(LOOK_EVERY)

    async def _reread(self) -> None:
        """After a read that failed: once Redis is back, start the entries that the lost reply may have brought."""
        while True:
            await asyncio.sleep(TRY_AGAIN_AFTER)
            try:
                await self._start_lost()
            except GroupMissing:
                return
            except JournalUnavailable as fault:
                self._cannot_read(fault)
                continue
            self._can_read()
            return

    async def _start_lost(self) -> None:
        """Start the entries of reads whose reply was lost.

        Settlements have another connection. So Redis may list an entry as pending that is settled, and no longer in
        `in_delivery`, by the time this list is handled. Entries that were there before are left out.
        """
        before = set(self.in_delivery)
        self._start([entry for entry in await self.consumer.reread() if entry.key not in before])

    def _start(self, entries: Sequence[Entry], *, redelivery: bool = False) -> None:
        """Start the deliveries of entries that were read."""
        entries = [entry for entry in entries if entry.key not in self.in_delivery]
        size = sum(len(entry.event) for entry in entries)
        outage = self.limit.count_read(len(entries), size, redelivery=redelivery)
        for batch in self._deliverer.batches(entries):
            task = asyncio.create_task(self._deliver(batch, redelivery=redelivery))
            for entry in batch:
                self.in_delivery[entry.key] = entry, task, outage, redelivery

    def _wakes(self, entry: Entry) -> bool:
        """Whether this delivery wakes the stages downstream: the first one of an event does. With a `delay` that comes
        as a retry, and is not told from a replay, or from a retry that was not counted.
        """
        return not entry.failures and (not entry.retried or bool(self._delay))

    def _forget(self, entry: Entry) -> None:
        """Forget an entry that is settled, lost or left pending."""
        key = entry.key
        if found := self.in_delivery.pop(key, None):
            _, _, outage, redelivery = found
            self.limit.count_settled(outage, 1, len(entry.event), redelivery=redelivery)
            self._to_trim.add(entry.channel)
            self._replaced.discard(key)

    def _forget_all(self, entries: Iterable[Entry], _ended: "asyncio.Task[None] | None" = None) -> None:
        for entry in entries:
            self._forget(entry)

    async def _deliver(self, entries: Sequence[Entry], *, redelivery: bool) -> None:
        """POST these events and have each settled by its outcome. One that a batch left undecided is then POSTed alone.

        An unexpected exception counts as a failure of the event that it came with. No request is made again for it, so
        the other events of a batch, which the stage has answered, are not delivered twice.
        """
        deliver = [entry for entry in entries if not self._settled_undelivered(entry)]
        if not deliver:
            return
        results: list[tuple[Entry, Outcome | Undecided]]
        try:
            outcomes, sent = await self._send(deliver, redelivery=redelivery)
            results = list(zip(deliver, outcomes, strict=True))
        except Exception as fault:
            log.exception(Fields(stage=self.stage, channel=deliver[0].channel, outcome="failed"))
            results, sent = [(entry, _failed(fault)) for entry in deliver], self._not_sent()
        undecided: list[Entry] = []
        for entry, outcome in results:
            if not isinstance(outcome, Undecided):
                self._settle_by(entry, outcome, sent)
                continue
            undecided.append(entry)
            if outcome.timed_out:
                self.limit.timed_out(sent.began, sent.ended, sent.outage)  # of a batch only the first call counts
        if undecided:
            await asyncio.gather(*(self._deliver([entry], redelivery=redelivery) for entry in undecided))

    def _settled_undelivered(self, entry: Entry) -> bool:
        """Whether this entry is settled without a delivery now: it waits for its `delay`, or is another stage's."""
        try:
            if entry.only and entry.only != self.stage:
                self._settle(Complete(entry, "", None))
            elif self._delay and not entry.retried:
                self._settle(Delay(entry, event_id(entry), self._delay))
            else:
                return False
        except Exception as fault:
            log.exception(Fields(stage=self.stage, channel=entry.channel, outcome="failed"))
            self._settle_by(entry, _failed(fault), self._not_sent())
        return True

    async def _send(self, entries: Sequence[Entry], *, redelivery: bool) -> tuple[Sequence[Outcome | Undecided], Sent]:
        events = len(entries)
        outage = await self.limit.enter(events, redelivery=redelivery)
        while not self._resumed.is_set():
            self.limit.leave(outage, events)
            await self._wait_while_paused()
            outage = await self.limit.enter(events, redelivery=redelivery)
        began = time.perf_counter()  # uvloop's clock keeps whole milliseconds
        if began >= self._silence.at and not self.limit.down and any(map(self._wakes, entries)):
            self._silence.event_sent()
        self._metrics.in_flight += events
        try:
            outcomes = await self._deliverer.deliver(entries)
        finally:
            self._metrics.in_flight -= events
            self.limit.leave(outage, events)
        ended = time.perf_counter()
        self._silence.request_ended(ended, answered=not isinstance(outcomes[0], UNANSWERED))
        return outcomes, Sent(began, ended, outage, events)

    async def _wait_while_paused(self) -> None:
        """Wait until the pause ends. Raises CancelledError when the bridge stops: the entries are then handed back."""
        waiting = asyncio.ensure_future(self._resumed.wait())
        self._paused.add(waiting)
        await waiting

    def pause(self, *, paused: bool) -> None:
        """Begin or end a pause: nothing is read and nothing is POSTed meanwhile. Requests under way are not cut off."""
        if paused != self._resumed.is_set():
            return
        self._metrics.paused += 1 if paused else -1
        log.warning(Fields(stage=self.stage, outcome="paused" if paused else "resumed"))
        if paused:
            self._resumed.clear()
        else:
            self._resumed.set()

    def _settle_by(self, entry: Entry, outcome: Outcome, sent: Sent) -> None:
        """Have an entry settled by this outcome, and count that. After an exception the event counts as failed instead,
        and after another one the entry is left pending.
        """
        fields = Fields(stage=self.stage, channel=entry.channel, outcome="failed")
        try:
            settlement = self._settlement(entry, outcome, sent)
        except Exception as fault:
            log.exception(fields)
            outcome = _failed(fault)
            try:
                settlement = self._settlement(entry, outcome, sent)
            except Exception as again:
                log.exception(fields)
                self._leave_pending(entry, type(again).__name__)
                return
        self._settle(settlement)
        self._count(outcome, sent)

    def _not_sent(self) -> Sent:
        """Return the time of an outcome that no request had."""
        now = time.perf_counter()
        return Sent(now, now, self.limit.outage, 1)

    def _count(self, outcome: Outcome, sent: Sent) -> None:
        """Count the outcome of an event in the metrics, and in the limit of the route. Never raises."""
        try:
            self._metrics.delivered(outcome, sent.began, sent.ended)
            if isinstance(outcome, Delivered):
                self._policy.succeeded()
                self.limit.succeeded(sent.ended - sent.began, sent.outage, sent.events)
            elif isinstance(outcome, Crashed) and outcome.timed_out:
                self.limit.timed_out(sent.began, sent.ended, sent.outage)
        except Exception:
            log.exception(Fields(stage=self.stage, outcome="uncounted"))

    def _settlement(self, entry: Entry, outcome: Outcome, sent: Sent) -> Settlement:
        """Return how to settle an entry after this outcome."""
        of = event_id(entry)
        if isinstance(outcome, Delivered):
            if log.isEnabledFor(logging.DEBUG):
                log.debug(self._fields(entry, "delivered"))
            if outcome.answers is not None:
                return Split(entry, of, outcome.answers)
            return Complete(entry, of, outcome.reply)
        decision = self._policy.decide(entry, outcome)
        if not isinstance(outcome, RouteDown) and not isinstance(decision, RetryWhenUp):
            self.limit.end_outage(sent.outage)
        if isinstance(decision, GiveUp):
            return Bury(entry, of, decision.failure)
        # The reason may quote the event, so it goes into the dead letter and not into the log.
        log.info(self._fields(entry, type(outcome).__name__.lower(), status=outcome.status))
        if isinstance(decision, Retry):
            return Park(entry, of, decision.failure, decision.delay)
        self._log_outage(outcome.status, decision.failure.reason)
        return Park(entry, of, decision.failure, self.limit.went_down(sent.outage, decision.retry_after))

    def _log_outage(self, status: int | None, reason: str) -> None:
        """Log why the route is down: the first failure, then one line a minute."""
        now = time.monotonic()
        if now - self._outage_logged >= LOG_OUTAGE_EVERY:
            self._outage_logged = now
            log.warning(Fields(stage=self.stage, outcome="routedown", status=status, reason=reason))

    def _settle(self, settlement: Settlement) -> None:
        """Have an entry settled."""
        self._to_settle.append(settlement)
        if self._settler is None:
            self._settler = asyncio.create_task(self._settle_all())

    async def _settle_all(self) -> None:
        """Settle entries until none is left to settle. `_settle_again` gets those that Redis does not settle now."""
        now = asyncio.get_running_loop().time
        try:
            while self._to_settle:
                # If no other delivery is under way, the next event of a key waits for this round trip alone.
                waiting = len(self._to_settle) + len(self._unsettled)
                at_once = self.consumer.ordered and len(self.in_delivery) <= waiting
                if not at_once and (early := self._settle_at - now()) > 0:
                    await asyncio.sleep(early)
                self._settle_at = now() + PACE
                settlements, self._to_settle = self._to_settle, []
                unsettled, reason = await self._settle_together(settlements)
                self._unsettled += unsettled
                if unsettled and self._unsettled_settler is None:
                    self._unsettled_settler = asyncio.create_task(self._settle_again(reason))
                if len(unsettled) == len(settlements):
                    await asyncio.sleep(TRY_AGAIN_AFTER)
        finally:
            self._settler = None

    async def _settle_again(self, reason: str) -> None:
        """Try to settle the unsettled entries until none is left. `reason`: why Redis was not available for them."""
        try:
            while self._unsettled:
                if reason:
                    self._settle_failures.failed(reason, entries=len(self._unsettled))
                await asyncio.sleep(TRY_AGAIN_AFTER)
                settlements, self._unsettled = self._unsettled, []
                unsettled, reason = await self._settle_together(settlements)
                self._unsettled += unsettled
            self._settle_failures.succeeded()
        finally:
            self._unsettled_settler = None

    async def _settle_together(self, settlements: Sequence[Settlement]) -> tuple[list[Settlement], str]:
        """Try to settle these entries. Returns those for which Redis was not available, and why.

        After an unexpected exception each entry is tried alone. If that raises too, a delivered event counts as failed,
        and any other entry is left pending.
        """
        unsettled, reason = [], ""
        try:
            answers = list(zip(settlements, await self.consumer.settle(settlements), strict=True))
        except Exception as fault:
            log.exception(Fields(stage=self.stage, outcome="failed"))
            if len(settlements) > 1:  # the fault may be one event's
                tried = [await self._settle_together([settlement]) for settlement in settlements]
                return [one for some, _ in tried for one in some], max(reason for _, reason in tried)
            (settlement,) = settlements
            if isinstance(settlement, DELIVERED):
                self._settle_by(settlement.entry, _failed(fault), self._not_sent())
            else:
                self._leave_pending(settlement.entry, type(fault).__name__)
            return [], ""
        for settlement, answer in answers:
            if isinstance(answer, JournalUnavailable):
                unsettled.append(settlement)
                reason = str(answer)
                continue
            try:
                self._settled(settlement, answer)
            except Exception as fault:
                log.exception(Fields(stage=self.stage, channel=settlement.entry.channel, outcome="failed"))
                self._leave_pending(settlement.entry, type(fault).__name__)
        return unsettled, reason

    def _settled(self, settlement: Settlement, answer: str | MilepostError) -> None:
        """Act on Redis's answer to a settlement: `done`, `buried`, `stale`, or its refusal."""
        entry = settlement.entry
        if isinstance(answer, MilepostError):
            self._refused(settlement, answer)
            return
        self._forget(entry)
        if answer == "stale":
            self._metrics.stale += 1
        elif isinstance(settlement, DELIVERED):
            return
        elif answer == "buried" and isinstance(settlement, Park | Bury):
            log.warning(self._fields(entry, "buried", status=settlement.failure.status))
            self._metrics.dead_letters += 1
        elif isinstance(settlement, Park | Delay):
            self._newly_parked.set()

    def _leave_pending(self, entry: Entry, reason: str) -> None:
        """Leave an entry pending. Nobody renews it now: it is redelivered after the claim time."""
        log.error(
            Fields(stage=self.stage, channel=entry.channel, entry=entry.id, outcome="left-pending", reason=reason)
        )
        self._forget(entry)

    def _refused(self, settlement: Settlement, refusal: MilepostError) -> None:
        """Settle an entry in another way: its settlement cannot be written, or Redis refuses it.

        A reply that Redis refuses is no fault of the event. Its channel's journal is a key of another type, or the user
        may not write it, so the next reply would be refused too: the route counts as down until an operator acts.
        """
        entry = settlement.entry
        if isinstance(settlement, DELIVERED):
            reason = f"its reply was refused: {refusal}"
            failed = isinstance(refusal, EventError)
            outcome = Failed(None, reason) if failed else RouteDown(None, reason)
            self._settle_by(entry, outcome, self._not_sent())
        elif entry.key not in self._replaced and (other := self._instead(settlement, refusal)):
            self._replaced.add(entry.key)
            self._settle(other)
        else:
            self._leave_pending(entry, str(refusal))

    def _instead(self, settlement: Park | Delay | Bury, refusal: MilepostError) -> Settlement | None:
        """Return another settlement in place of one that Redis refuses; None: the entry stays pending."""
        if isinstance(settlement, Delay):
            return None
        entry, of, failure = settlement.entry, settlement.id, settlement.failure
        decided = Retry(failure, settlement.delay) if isinstance(settlement, Park) else GiveUp(failure)
        match self._policy.decide_refusal(entry, decided, str(refusal)):
            case GiveUp(failure):
                return Bury(entry, of, failure)
            case Retry(failure, delay):
                log.error(self._fields(entry, "not-buried", reason=str(refusal)))
                return Park(entry, of, failure, delay)
        return None

    def _fields(self, entry: Entry, outcome: str, **more: object) -> Fields:
        return Fields(
            stage=self.stage, channel=entry.channel, id=event_id(entry), entry=entry.id, outcome=outcome, **more
        )

    async def renew(self) -> None:
        """Renew the claim on the entries that were read. Raises JournalUnavailable.

        Cancel a delivery that has lost all of its entries to another bridge.
        """
        if not self.in_delivery:
            return
        lost = {entry.key for entry in await self.consumer.renew([entry for entry, *_ in self.in_delivery.values()])}
        if not lost:
            return
        deliveries: dict[asyncio.Task[None], list[Entry]] = {}
        for entry, task, *_ in self.in_delivery.values():
            deliveries.setdefault(task, []).append(entry)
        for task, entries in deliveries.items():
            if not task.done() and lost.issuperset(entry.key for entry in entries):
                log.warning(Fields(stage=self.stage, outcome="lost-claim", entries=len(entries)))
                task.add_done_callback(partial(self._forget_all, entries))
                task.cancel()

    def channels_to_trim(self) -> set[str]:
        """Return the channels of which entries were settled since the last call."""
        channels, self._to_trim = self._to_trim, set()
        return channels

    async def reap(self) -> None:
        """Delete the consumers of dead bridges. Raises JournalUnavailable."""
        await self.consumer.reap(idle=self._claim)

    async def finish(self, *, grace: float) -> None:
        """Wait `grace` seconds for the deliveries to end, cancel the others, and hand back their entries.

        Settlements have until the same time, and at least SETTLE_WITHIN: an event that was answered and is not settled
        is delivered again.
        """
        for waiting in list(self._paused):
            waiting.cancel()
        end = time.monotonic() + grace
        await _end({task for _, task, *_ in self.in_delivery.values()}, within=grace)
        end = max(end, time.monotonic() + SETTLE_WITHIN)
        while settlers := {one for one in (self._settler, self._unsettled_settler) if one and not one.done()}:
            await _end(settlers, within=end - time.monotonic())
        self._forget_all([entry for entry, *_ in self.in_delivery.values()])
        await self._deliverer.close()
        try:
            async with asyncio.timeout(HAND_BACK_WITHIN):
                await self.consumer.hand_back(claim=self._claim)
        except (JournalUnavailable, TimeoutError) as fault:
            log.warning(Fields(stage=self.stage, outcome="not-handed-back", reason=str(fault)))


def _failed(fault: Exception) -> Failed:
    """Return an exception in the bridge as a failure of the event. Uncounted, it would be redelivered for ever."""
    return Failed(None, f"the bridge failed at it: {type(fault).__name__}")


async def _end(tasks: Collection[asyncio.Task[None]], *, within: float) -> None:
    """Wait so many seconds for tasks to end, and cancel the others."""
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=within)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
