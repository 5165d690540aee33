"""Order by key at its limits: one key that has nearly all events, and one key that nothing helps."""

import asyncio
from collections import Counter, defaultdict
from signal import SIGKILL

from milepost.events.event import Event, now
from milepost.journal import keys
from tests.bridge.rig import Answer, Delivery, status
from tests.faults.registry import fault
from tests.faults.rows.outages import MOST_MEMORY, memory, portions, published, used
from tests.faults.rows.poison import LEAST
from tests.faults.rows.stages import recorded
from tests.faults.run import Run
from tests.faults.stage_proxy import StageProxy
from tests.servers import eventually

ONE_KEY = 50_000
"""Events of one key."""

OTHERS = 500
"""Every so many events of it, one of another key is published."""

POISONED = "poisoned@example.org"
POISON = 9
"""Events of the poisoned key. If ten events fail while none succeeds, the stage counts as broken."""

TRIES = 6

QUICK_BACKOFF = {"retry": TRIES - 1, "backoffDelay": "PT0.02S"}


class Book:
    """A stage that takes the events of a key in their order. It puts the first of the large key off until `open`."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.taken: defaultdict[str, list[int]] = defaultdict(list)
        """Of each key the numbers of the events, in the order in which they were taken first."""
        self.deliveries = 0
        self._seen: set[str] = set()

    def __call__(self, delivery: Delivery) -> Answer:
        self.deliveries += 1
        event = delivery.event
        assert isinstance(event.data, dict)
        key = event.data["key"]
        if key == "one" and not self.open.is_set():
            return status(409, retry_after="300")
        if event.id not in self._seen:
            self._seen.add(event.id)
            self.taken[key].append(event.data["number"])
        return status(204)


def numbered(number: int, key: str) -> Event:
    data = {"key": key, "number": number, "note": "x" * 60}
    return Event(id=f"{key}-{number}", source="/faults/order", type="bulk", time=now(), data=data)


@fault(
    "50,000 events of one key wait, the bridge: SIGKILL",
    loaded=False,
    only_on_request=True,
    no_twin="50,000 events wait in the row itself",
)
async def one_key(run: Run) -> None:
    """They wait in Redis behind an event that is parked, and other keys do not. Then a bridge is killed among them."""
    stack, count = run.stack, min(ONE_KEY, 25 * run.n)
    book = Book()
    stage = await recorded(run, "bulk", "bulk", book, key="key")
    run.ordered_of_its_own.append("bulk")
    stack.extra_routes.append(stage.route(order="key"))
    await stack.down(stack.bridges.pop())
    bridge = stack.add_bridge()
    await stack.up(bridge)

    others = range(0, count, OTHERS)
    empty = await used(run)
    for numbers in portions(range(count)):
        events = [numbered(number, "one") for number in numbers]
        events += [numbered(number, f"other {number % 7}") for number in others if number in numbers]
        await asyncio.gather(*(published(run, stack.journal, one, key="key") for one in events))

    async def are_held() -> bool:
        return bool(await stack.client.zcard(keys.held("bulk", "bulk")) == count - 1)

    await eventually(are_held, 600, "all but the first are held")
    await eventually(lambda: sum(map(len, book.taken.values())) == len(others), what="the other keys' events")
    run.notes.append(f"{(await used(run) - empty) / count:.0f} bytes of Redis for each held event")
    bounded(run, "while they waited")
    await stack.down(bridge, SIGKILL)
    await stack.up(bridge)
    book.open.set()
    for member in await stack.client.zrange(keys.parked("bulk"), 0, -1):
        await stack.client.zadd(keys.parked("bulk"), {member: 1})
    await eventually(lambda: len(book.taken["one"]) > count // 10, 600, "the first of them")
    bounded(run, "when they were let go")
    await stack.down(bridge, SIGKILL)
    await stack.up(bridge)
    await run.load.submit(min(run.n, 300))
    await eventually(lambda: len(book.taken["one"]) == count, 3600, "all of them")
    bounded(run, "at the end")
    run.check(all(taken == sorted(taken) for taken in book.taken.values()), "a key's events were not taken in order")
    run.notes.append(f"{book.deliveries} deliveries of {count + len(others)} events")
    await run.settle()
    await stage.close()


def bounded(run: Run, when: str) -> None:
    most = memory(run.stack.bridge, "VmHWM")
    run.notes.append(f"bridge {most:.0f} MB at most {when}")
    run.check(most < MOST_MEMORY, f"the bridge had {most:.0f} MB {when}")


@fault(
    "one key poisoned for good, beside others", loaded=False, proxied=("store",), delivery=QUICK_BACKOFF, order="email"
)
async def poisoned_key(run: Run) -> None:
    """Its events die one after the other, each after all of its tries. The other keys hardly notice."""
    store = run.stack.proxies["store"]
    await run.load.submit(run.n // 2)
    await run.recover()
    normal = await run.p99(run.load.accepted)

    delivered: list[str] = []

    async def behaviour(proxy: StageProxy, delivery: Delivery) -> Answer:
        assert isinstance(delivery.event.data, dict)
        if delivery.event.data["email"] != POISONED:
            return await proxy.forward(delivery)
        delivered.append(delivery.event.id)
        return status(500)

    store.behaviour = behaviour
    first = len(run.load.sent)
    load = asyncio.create_task(run.load.submit(run.n // 2))
    poison = [run.load.new(POISONED) for _ in range(POISON)]
    for one in poison:
        await run.load.together([one])
    await load
    ids = [one.id for one in poison]
    await run.others_mailed(lambda: ids)
    well = [one for one in run.load.accepted[first:] if one not in poison and run.mailbox.lines[one.line]]
    beside = await run.p99(well)
    run.notes.append(f"p99 of the other keys: {beside:.3f} s, and {normal:.3f} s before")
    run.check(beside <= 2 * max(normal, LEAST), f"p99 {beside:.3f} s beside a poisoned key, {normal:.3f} s without")
    await run.buried("store", ids)
    run.check(delivered == [one for one in ids for _ in range(TRIES)], f"out of order: {Counter(delivered)}")
    store.behaviour = StageProxy.forward
    await run.milepost("dead", "replay", "store", "--all")
    run.dead_on_purpose.clear()
    await run.recover()
