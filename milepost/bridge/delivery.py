"""A delivery: POSTs one event or a batch to a route, and returns the outcome of each event."""

import logging
import re
from collections.abc import Collection, Mapping, Sequence

from milepost.bridge.http.client import Client, Lost, NotSent, ResponseTooLarge
from milepost.bridge.outcome import (
    MULTI_STATUS,
    Crashed,
    Delivered,
    Failed,
    Outcome,
    Refused,
    RouteDown,
    Undecided,
    outcome_of,
    outcomes_of_batch,
)
from milepost.bridge.settings import DeliverySpec
from milepost.errors import EventError
from milepost.events.batch import BATCH_TYPE, write_batch
from milepost.events.event import MAX_EVENT, STRUCTURED_TYPE, Event
from milepost.journal import Entry
from milepost.observe import traces
from milepost.observe.logs import Fields

log = logging.getLogger("milepost.bridge")

AGAIN_ONE_MORE = 64
"""After a response that was too large: how many answered batches it takes until batches grow by one event."""

_ID = re.compile(rb'\{"specversion":"1\.0","id":"([^"\\]+)"')
"""The beginning of every event that Milepost wrote."""


class Deliverer:
    """POSTs to the route `name`, which emits on one of the channels `emits`. `split`: it may give several answers."""

    def __init__(self, client: Client, name: str, *, spec: DeliverySpec, emits: Collection[str], split: bool) -> None:
        self._client = client
        self._name = name
        self._emits = emits
        self._split = split
        self._timeout = spec.timeout.total_seconds()
        self._tracer = traces.tracer("bridge")
        self._most = 1 if self._tracer else spec.batch  # with traces each event has a span of its own
        self._now = float(self._most)

    def batches(self, entries: Sequence[Entry]) -> list[list[Entry]]:
        """Divide entries into deliveries. An event that failed before is delivered alone, perhaps sooner."""
        batches: list[list[Entry]] = []
        batch: list[Entry] = []
        size = 0
        for entry in entries:
            if entry.failures:
                batches.append([entry])
                continue
            size += len(entry.event) + 1
            if batch and (len(batch) >= int(self._now) or size >= MAX_EVENT):
                batches.append(batch)
                batch, size = [], len(entry.event) + 1
            batch.append(entry)
        return [*batches, batch] if batch else batches

    async def deliver(self, entries: Sequence[Entry]) -> Sequence[Outcome | Undecided]:
        """POST these events in one request and return the outcome of each, in their order. Never raises.

        An event of a batch may be Undecided: it is then to be delivered alone.
        """
        try:
            if len(entries) > 1:
                return await self._deliver_batch(entries)
            if self._tracer is None:
                return [await self._post(entries[0])]
            return [await self._post_traced(self._tracer, entries[0])]
        except Exception as fault:
            # A fault in the bridge, but these events cause it: uncounted they would be redelivered for ever.
            log.exception(Fields(stage=self._name, channel=entries[0].channel, outcome="not-posted"))
            if len(entries) > 1:
                return [Undecided(type(fault).__name__)] * len(entries)
            return [Failed(None, f"the bridge failed at it: {type(fault).__name__}")]

    async def _post_traced(self, tracer: traces.Tracer, entry: Entry) -> Outcome:
        with tracer.deliver(self._name, entry.event, entry.failures) as span:
            outcome = await self._post(entry, span.headers)
            if isinstance(outcome, Delivered):
                span.answered("delivered")
                if outcome.answers:
                    return Delivered(answers=[span.handed_on(answer) for answer in outcome.answers])
                return Delivered(span.handed_on(outcome.reply)) if outcome.reply else outcome
            span.answered(type(outcome).__name__.lower(), outcome.status)
            return outcome

    async def _post(self, entry: Entry, headers: Mapping[str, str] | None = None) -> Outcome:
        try:
            response = await self._client.post(
                entry.event, content_type=STRUCTURED_TYPE, timeout=self._timeout, headers=headers
            )
        except NotSent as fault:
            return RouteDown(None, str(fault))
        except Lost as fault:
            return Crashed(str(fault), timed_out=fault.timed_out)
        except ResponseTooLarge as fault:
            if not self._emits or not 200 <= fault.status < 300:
                return outcome_of(fault.status, {}, b"", emits=self._emits)
            if self._split:
                return Refused(fault.status, f"unusable reply: answers of over {MAX_EVENT} bytes together, the limit")
            return Failed(fault.status, f"unusable reply: {fault}")
        return outcome_of(
            response.status,
            response.headers,
            response.body,
            emits=self._emits,
            splits=event_id(entry) if self._split else None,
        )

    async def _deliver_batch(self, entries: Sequence[Entry]) -> Sequence[Outcome | Undecided]:
        body = write_batch(entry.event for entry in entries)
        try:
            response = await self._client.post(body, content_type=BATCH_TYPE, timeout=self._timeout)
        except NotSent as fault:
            return [RouteDown(None, str(fault))] * len(entries)
        except ResponseTooLarge as fault:
            if not self._emits and 200 <= fault.status < 300 and fault.status != MULTI_STATUS:
                return [Delivered()] * len(entries)  # the body of such a stage is not read
            self._now = max(2.0, len(entries) // 2)
            return self._undecided(entries, Undecided(str(fault)))
        except Lost as fault:
            return self._undecided(entries, Undecided(str(fault), fault.timed_out))
        self._now = min(float(self._most), self._now + 1 / AGAIN_ONE_MORE)
        ids = [event_id(entry) for entry in entries]
        outcomes = outcomes_of_batch(
            response.status, response.headers, response.body, ids, emits=self._emits, split=self._split
        )
        if undecided := [outcome for outcome in outcomes if isinstance(outcome, Undecided)]:
            self._log_undecided(len(undecided), undecided[0].reason)
        return outcomes

    def _undecided(self, entries: Sequence[Entry], outcome: Undecided) -> Sequence[Undecided]:
        self._log_undecided(len(entries), outcome.reason)
        return [outcome] * len(entries)

    def _log_undecided(self, events: int, reason: str) -> None:
        log.info(Fields(stage=self._name, outcome="batch-undecided", events=events, reason=reason))

    async def close(self) -> None:
        """Close the connections. No delivery may be under way any more."""
        await self._client.close()


def event_id(entry: Entry) -> str:
    """Return the id of the event in an entry; empty if the entry holds no valid event."""
    if written_here := _ID.match(entry.event):
        return written_here[1].decode(errors="replace")
    try:
        return Event.from_json(entry.event).id
    except EventError:
        return ""
