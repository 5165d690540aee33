"""How an event reaches its stage, alone or with others, and what is said of it."""

import logging
from collections.abc import Mapping

from milepost import tracing
from milepost.bridge.client import Client, Lost, NotSent, TooLarge
from milepost.bridge.ruling import event_id
from milepost.bridge.settings import Delivery
from milepost.bridge.together import Alone, Together
from milepost.bridge.verdict import Crashed, Delivered, Failed, RouteDown, Verdict, judge
from milepost.events.event import STRUCTURED_TYPE
from milepost.journal import Entry
from milepost.log import Fields

log = logging.getLogger("milepost.bridge")


class Sender:
    """POSTs to the stage `name`, which emits on `emits` or nothing. `gathers`: whether events may go together; where
    there are spans each call is one of its own.
    """

    def __init__(self, client: Client, name: str, *, delivery: Delivery, emits: str | None) -> None:
        self._client = client
        self._name = name
        self._emits = emits
        self._timeout = delivery.timeout.total_seconds()
        self._tracer = tracing.tracer("bridge")
        self._together = Together(client, name, most=delivery.batch, timeout=self._timeout, emits=emits)
        self.gathers = delivery.batch > 1 and self._tracer is None

    async def together(self, entry: Entry) -> Verdict | Alone:
        """With what else is sent at this moment; by itself where there is nothing."""
        return await self._together.deliver(entry) or await self.alone(entry)

    async def alone(self, entry: Entry) -> Verdict:
        if self._tracer is None:
            return await self._judged(entry)
        with self._tracer.deliver(self._name, entry.event, entry.attempts + entry.crashes) as delivery:
            verdict = await self._judged(entry, delivery.headers)
            if isinstance(verdict, Delivered):
                delivery.answered("delivered")
                return Delivered(delivery.handed_on(verdict.reply)) if verdict.reply else verdict
            delivery.answered(type(verdict).__name__.lower(), verdict.status)
            return verdict

    async def _judged(self, entry: Entry, headers: Mapping[str, str] | None = None) -> Verdict:
        try:
            answer = await self._client.post(
                entry.event, content_type=STRUCTURED_TYPE, timeout=self._timeout, headers=headers
            )
            return judge(answer.status, answer.headers, answer.body, emits=self._emits)
        except NotSent as fault:
            return RouteDown(None, str(fault))
        except Lost as fault:
            return Crashed(str(fault), timed_out=fault.timed_out)
        except TooLarge as fault:
            if self._emits is None or not 200 <= fault.status < 300:
                return judge(fault.status, {}, b"", emits=self._emits)
            return Failed(fault.status, f"unusable reply: {fault}")
        except Exception as fault:
            # Ours, but this event's too: counted, or it would come again for ever.
            log.exception(Fields(stage=self._name, channel=entry.channel, id=event_id(entry), outcome="not-posted"))
            return Failed(None, f"the bridge failed at it: {type(fault).__name__}")

    async def close(self) -> None:
        """End what is on the wire. Nobody may wait for it any more."""
        await self._together.close()
        await self._client.close()
