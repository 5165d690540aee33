"""An event is POSTed to its route: no attribute of it, and no redirect, makes the bridge call anything else."""

from typing import Any

import pytest

from milepost.events.event import Event
from tests.bridge.rig import Rig, Stage, status
from tests.servers import eventually


@pytest.fixture
async def trap() -> Any:
    """A server that no route names."""
    made = await Stage("trap", "trap", None, None).open()
    yield made
    await made.close()


@pytest.mark.parametrize("attribute", ["source", "dataschema", "subject"])
async def test_an_attribute_is_never_called(rig: Rig, trap: Stage, attribute: str) -> None:
    stage = await rig.stage("first", "in", None)
    await rig.bridge()
    fields: dict[str, Any] = {"id": "1", "source": "/test", "type": "in", "data": {"url": trap.url}}
    await rig.journal.publish(Event(**{**fields, attribute: trap.url}))
    await eventually(lambda: stage.count["1"] == 1)
    assert not trap.received


async def test_a_redirect_is_never_followed(rig: Rig, trap: Stage) -> None:
    stage = await rig.stage("first", "in", None, lambda _: status(307, location=trap.url))
    await rig.bridge()
    await rig.journal.publish(Event(id="1", source="/test", type="in"))
    await eventually(lambda: stage.count["1"] >= 2, what="it is tried again where it was")
    assert not trap.received
