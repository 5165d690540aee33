"""Real functions behind a stand-in for Knative's activator: started by a request, ended when idle."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.activator import Activator
from tests.bridge.rig import QUICK, Delivery, Rig, replied
from tests.broker import Broker
from tests.servers import Function, eventually

SOURCE = """
import asyncio
from pathlib import Path

from milepost import Event, Payload, stage


class Note(Payload, channel="in"):
    pass


class Done(Payload, channel="out"):
    pass


async def note(note: Note, event: Event) -> Done:
    with open(FOLDER / "begun", "a") as begun:
        begun.write(event.id + " ")
    while not (FOLDER / f"go-{event.id}").exists():
        await asyncio.sleep(0.01)
    return Done()


main = stage(note)
"""


class Held:
    """A function that answers an event when it is let go. `begun`: the ids of the events that it was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "main.py"
        self.source.write_text(f"FOLDER = __import__('pathlib').Path({str(folder)!r})\n{SOURCE}")

    def make(self) -> Function:
        return Function(self.folder, "held", source=self.source)

    @property
    def begun(self) -> list[str]:
        path = self.folder / "begun"
        return path.read_text().split() if path.exists() else []

    def let_go(self, event_id: str) -> None:
        (self.folder / f"go-{event_id}").touch()


def route(activator: Activator) -> list[dict[str, object]]:
    return [{"name": "held", "consumes": "in", "emits": "out", "url": activator.url, **QUICK}]


async def publish(rig: Rig, *ids: str) -> None:
    for event_id in ids:
        await rig.publish("in", event_id, {})


def published(rig: Rig, *ids: str) -> Callable[[], Awaitable[bool]]:
    async def all_of_them() -> bool:
        return sorted(await rig.journaled("out")) == [*ids]

    return all_of_them


async def test_events_of_a_function_at_zero_are_held_until_its_one_start(rig: Rig, tmp_path: Path) -> None:
    held = Held(tmp_path)
    for event_id in "1234":
        held.let_go(event_id)
    async with Activator(held.make, platform_delay=0.2, idle=0.2, drain=0) as activator:
        await publish(rig, "1", "2", "3")
        await rig.bridge(routes=route(activator))
        await eventually(published(rig, "1", "2", "3"))
        assert activator.starts == 1
        assert activator.requests == {"POST /": 3}
        await eventually(lambda: activator.running == 0)
        await publish(rig, "4")
        await eventually(published(rig, "1", "2", "3", "4"))
        assert activator.starts == 2
        assert sorted(held.begun) == ["1", "2", "3", "4"]


async def test_scale_down_during_a_delivery_lets_it_end_and_starts_another_process(rig: Rig, tmp_path: Path) -> None:
    held = Held(tmp_path)
    async with Activator(held.make, drain=0.1) as activator:
        await rig.bridge(routes=route(activator))
        await publish(rig, "1")
        await eventually(lambda: held.begun == ["1"])
        activator.scale_down()
        await publish(rig, "2")
        await eventually(lambda: held.begun == ["1", "2"])  # by another process
        await eventually(lambda: activator.terminated == 1)
        assert activator.starts == activator.running == 2
        held.let_go("1")  # after SIGTERM
        held.let_go("2")
        await eventually(published(rig, "1", "2"))
        await eventually(lambda: activator.running == 1)
        assert activator.killed == 0
        assert held.begun == ["1", "2"]


async def test_event_of_a_process_that_is_killed_after_its_grace_is_delivered_again(rig: Rig, tmp_path: Path) -> None:
    held = Held(tmp_path)
    async with Activator(held.make, drain=0.1, grace=0.1) as activator:
        await rig.bridge(routes=route(activator))
        await publish(rig, "1")
        await eventually(lambda: held.begun == ["1"])
        activator.scale_down()
        await eventually(lambda: held.begun == ["1", "1"])  # by another process
        held.let_go("1")
        await eventually(published(rig, "1"))
        assert activator.killed == 1
        assert activator.starts == 2


@pytest.mark.parametrize("delivery", ["direct", "broker"])
async def test_wake_up_starts_a_function_before_its_event_comes(rig: Rig, tmp_path: Path, delivery: str) -> None:
    held = Held(tmp_path)
    held.let_go("1")
    go = asyncio.Event()
    first = await rig.stage("first", "start", "in")

    async def answer(delivery: Delivery) -> bytes:
        await go.wait()
        return replied(delivery.event, "in")

    first.script = answer
    async with Activator(held.make, platform_delay=0.1) as activator:
        broker = Broker({"start": [first.url], "in": [activator.url]})
        sink = await rig.stage("broker", "", None, broker)
        await rig.bridge(routes=[first.route(), *route(activator)], delivery=delivery, k_sink=sink.url)
        await rig.publish("start", "1", {})
        await eventually(lambda: activator.starts == 1)  # though the first stage still has the event
        assert activator.requests == {"GET /": 1}
        go.set()
        await eventually(lambda: held.begun == ["1"])
        assert activator.requests == {"GET /": 1, "POST /": 1}
        assert activator.starts == 1
        await eventually(lambda: not sink.on_wire)  # in broker mode it answers when the function has
        assert broker.retries == 0
        await broker.close()
