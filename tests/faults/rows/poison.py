"""Poison: one event in a hundred that its stage answers with 500 for good."""

from collections import Counter

from tests.bridge.rig import Answer, Delivery, status
from tests.faults.registry import fault
from tests.faults.rows.answers import QUICK_BACKOFF, RETRY, is_poison
from tests.faults.rows.stages import audited
from tests.faults.run import Run
from tests.faults.stage_proxy import StageProxy

LEAST = 0.05
"""Seconds under which a p99 is noise, on a machine that does other things as well."""


@fault(
    "a poison event in every hundred, the bridge restarted in between",
    loaded=False,
    proxied=("store",),
    delivery=QUICK_BACKOFF,
    no_twin="the bridge ends only while no event waits; the row compares the p99 of two loads of its own",
)
async def poison(run: Run) -> None:
    """The others hardly notice; the poison ones die after exactly 1 + retry deliveries, and can be replayed."""
    stack = run.stack
    audit = await audited(run)
    await stack.down(stack.bridge)
    stack.bridges.clear()
    await stack.up(stack.add_bridge())
    await run.load.submit(run.n // 2)
    await run.recover()
    normal = await run.p99(run.load.accepted)

    deliveries: Counter[str] = Counter()

    async def behaviour(proxy: StageProxy, delivery: Delivery) -> Answer:
        if is_poison(delivery.event.id):
            deliveries[delivery.event.id] += 1
            return status(500)
        return await proxy.forward(delivery)

    store = stack.proxies["store"]
    store.behaviour = behaviour
    first = len(run.load.sent)
    await run.load.submit(run.n // 2)
    await run.others_mailed(lambda: deliveries)
    accepted = run.load.accepted[first:]
    poisoned = {one.email for one in accepted if one.id in deliveries}  # of an ordered stage their other events wait
    well = [one for one in accepted if one.email not in poisoned and run.mailbox.lines[one.line]]
    among_poison = await run.p99(well)
    run.check(among_poison <= 2 * max(normal, LEAST), f"p99 {among_poison:.3f} s among poison, {normal:.3f} s without")
    await stack.down(stack.bridge)
    await stack.up(stack.bridge)
    letters = await run.buried("store", deliveries)
    tries = 1 + RETRY
    run.check(deliveries, "no event was poison: the row shows nothing")
    run.check(set(deliveries.values()) <= {tries}, f"deliveries of a poison event: {sorted(set(deliveries.values()))}")
    for letter in letters:
        what = letter.status, letter.attempts, letter.crashes, letter.reason
        run.check(what == (500, tries, 0, "HTTP 500"), f"a dead letter says {what}")
    await replay(run, store, audit.count, sorted(deliveries))
    await audit.close()


async def replay(run: Run, store: StageProxy, audited_ids: Counter[str], dead: list[str]) -> None:
    store.behaviour = StageProxy.forward
    before = Counter(audited_ids)
    listed = await run.milepost("dead", "list", "store", "--json")
    run.check(listed.count('"stage"') == len(dead), "milepost dead list shows others than those that died")
    await run.milepost("dead", "replay", "store", "--id", dead[0])
    shown = await run.milepost("dead", "replay", "store", "--all")
    run.check(f"{len(dead) - 1} replayed" in shown, f"milepost dead replay --all says {shown!r}")
    run.dead_on_purpose.clear()
    await run.recover()
    run.check(audited_ids == before, "the replay reached another stage too")
