"""Functions that answer wrongly, late or not at all. The reply is spoilt after the function has done its work."""

import asyncio
import zlib
from collections.abc import Callable
from functools import partial

from milepost.events.event import MAX_EVENT
from tests.bridge.rig import Answer, Delivery, status
from tests.faults.registry import fault
from tests.faults.run import Run
from tests.faults.stage_proxy import Behaviour, Cut, StageProxy

SPELL = 6.0
"""Seconds that a function misbehaves."""

HANG = 30.0

RETRY = 10

QUICK_BACKOFF = {"retry": RETRY, "backoffDelay": "PT0.02S"}
"""The number of deliveries as it is shipped, the time between them cut short."""


async def for_a_spell(run: Run, *, stage: str, behaviour: Behaviour) -> None:
    proxy = run.stack.proxies[stage]
    proxy.behaviour = behaviour
    await asyncio.sleep(SPELL)
    proxy.behaviour = StageProxy.forward


async def unavailable(_proxy: StageProxy, _delivery: Delivery) -> Answer:
    return status(503)


def spoilt(spoil: Callable[[bytes], Answer]) -> Behaviour:
    """The function does its work, and its answer goes through `spoil`."""

    async def behaviour(proxy: StageProxy, delivery: Delivery) -> Answer:
        answer = await proxy.forward(delivery)
        return answer and spoil(answer)

    return behaviour


_EVENT = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/x", "content_type": "application/json"}

SPOILT: dict[str, Behaviour] = {
    "answers 503 for 6 s": unavailable,
    "closes the connection in mid-reply": spoilt(lambda answer: Cut(answer[: len(answer) * 2 // 3])),
    "replies with garbage": spoilt(lambda _: status(200, b"\x00\xff garbage", content_type="text/plain")),
    "replies with a wrong type": spoilt(lambda _: status(200, b'"x"', ce_type="another", **_EVENT)),
    "replies with 1 MB": spoilt(lambda _: status(200, b"x" * (MAX_EVENT + 1), content_type="application/json")),
    "replies with 302": spoilt(lambda _: status(302, location="/elsewhere")),
    "replies with 403": spoilt(lambda _: status(403)),
    "replies with the body OK": spoilt(lambda _: status(200, b"OK", content_type="text/html")),
}

STAGES = "distance", "store", "email"

for _place, (_name, _behaviour) in enumerate(SPOILT.items()):
    # In turn, and email always: whose work cannot be done twice.
    for _stage in sorted({STAGES[_place % 3], "email"}):
        fault(f"{_stage} {_name}", proxied=(_stage,), delivery=QUICK_BACKOFF)(
            partial(for_a_spell, stage=_stage, behaviour=_behaviour)
        )


def is_poison(event_id: str) -> bool:
    """One event in a hundred, always the same ones."""
    return zlib.crc32(event_id.encode()) % 100 == 0


async def hang(run: Run, *, stage: str) -> None:
    """Frozen, with connections open, then awake again with all it was given meanwhile."""
    function = run.stack.functions[stage]
    run.stack.freeze(function)
    await asyncio.sleep(HANG)
    run.stack.thaw(function)


for _stage in STAGES:
    fault(f"{_stage} hangs for 30 s")(partial(hang, stage=_stage))


@fault(
    "store does 20 events a second, one at a time, and more are on the wire", loaded=False, most=400, proxied=("store",)
)
async def slow(run: Run) -> None:
    """Those that wait for their turn time out, and their turn comes all the same."""
    turn = asyncio.Lock()

    async def behaviour(proxy: StageProxy, delivery: Delivery) -> Answer:
        async with turn:
            await asyncio.sleep(0.05)
            return await proxy.forward(delivery)

    proxy = run.stack.proxies["store"]
    proxy.behaviour = behaviour
    await run.load.submit(run.n)
    await run.recover()
    run.notes.append(f"{proxy.count.total()} deliveries of {run.n} events")


@fault(
    "store answers 500 to 1 % of events for good, is mended, and they are replayed",
    loaded=False,
    proxied=("store",),
    delivery=QUICK_BACKOFF,
)
async def one_in_a_hundred(run: Run) -> None:
    proxy = run.stack.proxies["store"]
    seen: set[str] = set()

    async def behaviour(proxy: StageProxy, delivery: Delivery) -> Answer:
        if is_poison(delivery.event.id):
            seen.add(delivery.event.id)
            return status(500)
        return await proxy.forward(delivery)

    proxy.behaviour = behaviour
    await run.load.submit(run.n)
    await run.others_mailed(lambda: seen)
    run.check(seen, "no event was poison: the row shows nothing")
    await run.buried("store", seen)
    proxy.behaviour = StageProxy.forward
    await run.milepost("dead", "replay", "store", "--all")
    run.dead_on_purpose.clear()
    await run.recover()
