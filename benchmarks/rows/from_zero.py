"""A form whose functions are all at zero, behind the stand-in for Knative's activator (tests/activator.py).

In broker mode they are also behind a stand-in for a Broker (tests/broker.py), in the benchmark's own process.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from typing import NamedTuple

import uvloop

from benchmarks import load
from benchmarks.bench import OURS, Bench, Figure, Measured
from benchmarks.harness import Harness
from benchmarks.mails import Mails
from benchmarks.rows.pipeline import environment
from milepost import stage_values
from tests.activator import Activator
from tests.bridge.rig import Stage
from tests.broker import Broker
from tests.images.component import Component
from tests.servers import HOST, ROOT, Valkey

TRIALS = 5
WARM = 15
"""Warm forms one after the other in each trial."""

PAUSE = 2.0
"""Seconds before one more warm form: a form takes longer after a pause, and the one from zero comes after one."""

PLATFORM_DELAY = 1.0
"""Seconds that a cluster takes to start a pod's process."""

WAKE_AFTER = 4.0
"""Seconds of `wakeAfter`, in place of the default 30. A mode's turn comes later than that after its last one."""


class Mode(NamedTuple):
    """The delivery mode, and `wake` of every stage."""

    delivery: str
    wake: str


MODES = {
    "off": Mode("direct", "off"),
    "event": Mode("direct", "event"),
    "page": Mode("direct", "page"),
    "broker off": Mode("broker", "off"),
    "broker event": Mode("broker", "event"),
}
STAGES = {stage.name: stage for stage in stage_values.read(ROOT)}


class FromZero:
    """The functions behind their activators, in one event loop."""

    def __init__(self, harness: Harness, activators: dict[str, Activator], mails: Mails) -> None:
        self._lab = harness
        self.activators = activators
        self._mails = mails
        self._forms = 0

    async def scale_down(self) -> None:
        for activator in self.activators.values():
            activator.scale_down()
        while any(activator.running for activator in self.activators.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def start_of(self, name: str) -> float:
        """Seconds from a request to the first answer of one function, alone and at zero."""
        begun = time.monotonic()
        await get(self.activators[name].port)
        taken = time.monotonic() - begun
        await self.scale_down()
        return taken

    async def form(self, port: int) -> float:
        """Seconds from a form to its e-mail."""
        number = self._forms
        self._forms += 1
        (connection,) = await load.connect(port, 1)
        begun = time.monotonic_ns()
        await connection.post(load.form(number))
        await self._mails.all(self._forms)
        connection.close()
        return (self._mails.sent[number] - begun) / 1e9

    async def chain(self, mode: str, port: int) -> Measured:
        """Seconds of a form at zero and of warm ones. For `page` the page was opened before, and all have started."""
        for activator in self.activators.values():
            activator.requests.clear()
        if mode == "page":
            await get(port, "/")
            while not all(activator.requests["GET /"] for activator in self.activators.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for activator in self.activators.values():
                await get(activator.port)  # answered when it has started
        zero = await self.form(port)
        if MODES[mode].delivery == "broker":
            await self.scale_down()
            return {mode: zero}
        in_a_row = median([await self.form(port) for _ in range(WARM)])
        await asyncio.sleep(PAUSE)
        warm = await self.form(port)
        await self.scale_down()
        return {mode: zero, "warm": warm, "in a row": in_a_row}


async def get(port: int, path: str = "/") -> None:
    """GET a page. Raises RuntimeError if the answer is not 200."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: text/html\r\n\r\n".encode())
    status = (await reader.readline()).split()[1]
    writer.transport.abort()
    if status != b"200":
        raise RuntimeError(f"HTTP {status.decode()}")


@asynccontextmanager
async def at_zero(harness: Harness, env: dict[str, str]) -> AsyncIterator[FromZero]:
    async with AsyncExitStack() as stack:
        activators = {}
        for name in STAGES:
            function = Component(harness.folder, "function", STAGE=name, env=env)
            activators[name] = await stack.enter_async_context(
                Activator(lambda function=function: function, platform_delay=PLATFORM_DELAY, drain=0)
            )
        mails = Mails(harness.sent_emails)
        stack.callback(mails.close)
        yield FromZero(harness, activators, mails)


def routes(urls: dict[str, str], mode: str) -> Iterable[dict[str, object]]:
    for name, stage in STAGES.items():
        wiring = {"name": name, "consumes": stage.consumes, "emits": stage.emits, "url": urls[name]}
        yield {**wiring, **stage.delivery, "wake": mode, "wakeAfter": f"PT{WAKE_AFTER}S"}


def gateway_and_bridge(harness: Harness, urls: dict[str, str], mode: Mode, sink: str) -> tuple[Component, Component]:
    """Start a Redis, a gateway and a bridge for one mode. `sink`: the Broker's URL."""
    redis = harness.start(Valkey(harness.folder, options={"appendfsync": harness.fsync}))
    given = list(routes(urls, mode.wake))
    bridge = harness.bridge(*given, REDIS_URL=redis.url, DELIVERY=mode.delivery, K_SINK=sink)
    return harness.gateway(STAGES=json.dumps(given), REDIS_URL=redis.url), bridge


@asynccontextmanager
async def brought_up(harness: Harness, urls: dict[str, str], mode: Mode) -> AsyncIterator[int]:
    """Yield the port of a gateway whose events take the way of this mode."""
    async with AsyncExitStack() as stack:
        sink = await Stage("broker", "", None, None).open()
        stack.push_async_callback(sink.close)
        gateway, bridge = await asyncio.to_thread(gateway_and_bridge, harness, urls, mode, sink.url)
        triggers: dict[str, list[str]] = {}
        for name, stage in STAGES.items():
            triggers.setdefault(stage.consumes, []).append(urls[name])
            for channel in stage.emits:
                triggers.setdefault(channel, []).append(f"{bridge.url}/replies")
        sink.script = broker = Broker(triggers)
        stack.push_async_callback(broker.close)
        yield gateway.port


def from_zero(harness: Harness) -> Measured:
    """Single starts and the chain in each mode, in turn, so that a load of the machine that changes meets all alike."""
    env = environment(harness)

    async def run() -> Measured:
        found: dict[str, list[float]] = {}
        async with AsyncExitStack() as stack:
            functions = await stack.enter_async_context(at_zero(harness, env))
            urls = {name: activator.url for name, activator in functions.activators.items()}
            ports = {
                name: await stack.enter_async_context(brought_up(harness, urls, mode)) for name, mode in MODES.items()
            }
            for _ in range(TRIALS):
                single = [await functions.start_of(name) for name in STAGES]
                turns = [{"slowest": max(single), "sum": sum(single)}]
                turns += [await functions.chain(mode, port) for mode, port in ports.items()]
                for key, seconds in (item for turn in turns for item in turn.items()):
                    found.setdefault(key, []).append(seconds)
        figures = {key: median(values) for key, values in found.items()}
        ratios = [event / slowest for event, slowest in zip(found["event"], found["slowest"], strict=True)]
        return {**figures, "event ratio": median(ratios), "page ratio": figures["page"] / figures["warm"]}

    return uvloop.run(run())


BENCHES = [
    Bench(
        "from-zero",
        (
            Figure("event ratio", "form to e-mail from zero, against the slowest single start", "ratio", 1.3),
            Figure("page ratio", "form to e-mail when the page has woken all, against a warm one", "ratio", 1.2),
            Figure("off", "form to e-mail from zero, wake: off", "s"),
            Figure("event", "form to e-mail from zero, wake: event", "s"),
            Figure("page", "form to e-mail after the page was opened, wake: page", "s"),
            Figure("broker off", "the same in broker mode, wake: off", "s"),
            Figure("broker event", "the same in broker mode, wake: event", "s"),
            Figure("warm", f"form to e-mail, warm, {PAUSE:g} s after another", "s"),
            Figure("in a row", "form to e-mail, warm, one after the other", "s"),
            Figure("slowest", "the slowest single start, platform delay of 1 s", "s"),
            Figure("sum", "the single starts together", "s"),
        ),
        {OURS: from_zero},
        durable=False,
    )
]
