"""From the moment an event is published until its first byte is at the sink, 500 a second."""

import asyncio
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from statistics import quantiles

import hiredis

from benchmarks import fill
from benchmarks.arrivals import Arrivals
from benchmarks.bench import FLOOR, OURS, Bench, Figure, Measured
from benchmarks.harness import Harness, until
from milepost.events.event import Event
from milepost.journal import Journal, Scripts
from milepost.journal.connection import connect
from milepost.journal.shared_connection import SharedConnection
from milepost.settings import JournalSettings

RATE = 500.0
WARM = 500
"""Events that come first and are not counted."""
EVENTS = 4_000

Words = tuple[str | bytes | int, ...]


class _Recorder(SharedConnection):
    """Stands in the place of the connection of a journal's doors, and keeps the commands that it is given."""

    def __init__(self) -> None:
        self.commands: list[Words] = []

    async def call(self, *command: str | bytes | int) -> list[bytes]:
        self.commands.append(command)
        return [b"done"]


def publishes(events: Sequence[Event]) -> list[bytes]:
    """The journal's own command for each event, packed: nothing but the writing is left for the time that counts."""
    settings = JournalSettings.read()
    journal = Journal(connect(settings), settings)
    recorder = _Recorder()
    journal.doors = Scripts(journal.redis, recorder)

    async def each() -> None:
        for event in events:
            await journal.publish(event)

    asyncio.run(each())
    return [hiredis.pack_command(command) for command in recorder.commands]  # type: ignore[arg-type]


def xadds(events: Sequence[Event]) -> list[bytes]:
    return [hiredis.pack_command(("XADD", fill.STREAM, "*", "event", event.to_json())) for event in events]  # type: ignore[arg-type]


def write(port: int, commands: Sequence[bytes], rate: float) -> list[int]:
    """Send each command at its time, without waiting for the reply to the one before: a Redis that stands still delays
    no later one. Return when each was sent, in nanoseconds of the monotonic clock. Raises a refusal of Redis.
    """
    sent, replies = [], 0
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = hiredis.Reader()
        begun = time.monotonic()
        while replies < len(commands):
            if len(sent) < len(commands):
                time.sleep(max(0.0, begun + len(sent) / rate - time.monotonic()))
                sent.append(time.monotonic_ns())
                link.sendall(commands[len(sent) - 1])
            with suppress(BlockingIOError):  # no reply yet
                received = link.recv(1 << 16, 0 if len(sent) == len(commands) else socket.MSG_DONTWAIT)
                if not received:
                    raise ConnectionResetError("Redis closed the connection")
                reader.feed(received)
            while (reply := reader.gets()) is not False:
                if isinstance(reply, hiredis.ReplyError):
                    raise reply
                replies += 1
    return sent


def figures(sent: Sequence[int], arrived: Sequence[int]) -> Measured:
    """`p50` and `p99` in milliseconds."""
    taken = [(there - here) / 1e6 for here, there in zip(sent, arrived, strict=True)]
    cuts = quantiles(taken, n=100)
    return {"p50": cuts[49], "p99": cuts[98]}


def run(harness: Harness, commands: Sequence[bytes], arrivals: Arrivals) -> Measured:
    sent = write(harness.redis.port, commands, RATE)
    until(lambda: arrivals.count == len(commands))
    return figures(sent[WARM:], [arrivals.at(number) for number in range(WARM, len(commands))])


def ours(harness: Harness) -> Measured:
    sink, arrivals = harness.sink(EVENTS + WARM + 1)
    fill.journal(harness.redis.url, [fill.submission(EVENTS + WARM)])  # so that Redis knows the script
    harness.bridge({"name": "sink", "consumes": "raw_input", "url": f"http://127.0.0.1:{sink.port}"})
    until(lambda: arrivals.count)
    arrivals.forget()
    return run(harness, publishes([fill.submission(number) for number in range(EVENTS + WARM)]), arrivals)


def peer(harness: Harness, module: str) -> Measured:
    sink, arrivals = harness.sink(EVENTS + WARM)
    places = (
        (harness.redis.url, f"http://127.0.0.1:{sink.port}") if module != FLOOR else (harness.redis.port, sink.port)
    )
    harness.peer(module, *places)
    return run(harness, xadds([fill.submission(number) for number in range(EVENTS + WARM)]), arrivals)


BENCHES = [
    Bench(
        "latency",
        (
            Figure("p50", "bridge, 500 events/s, publish to first byte: p50", "ms", 0.3),
            Figure("p99", "bridge, 500 events/s, publish to first byte: p99", "ms", 1.0),
        ),
        {
            OURS: ours,
            "FastStream + aiohttp": partial(peer, module="faststream_relay"),
            FLOOR: partial(peer, module=FLOOR),
        },
    )
]
