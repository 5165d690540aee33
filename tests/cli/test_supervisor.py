"""Keeping processes running, with small stand-ins for components."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from milepost.cli import keeper, supervisor
from milepost.cli.component import Component, Rank
from milepost.cli.console import Console
from milepost.cli.exits import Failed
from milepost.cli.supervisor import Supervisor
from tests.cli.running import is_alive
from tests.servers import eventually

OBEDIENT = "trap 'echo bye; exit 0' TERM; touch {name}; while :; do sleep 0.02; done"


class Stage:
    """A supervisor, its console in a file, and components that are ready when a file of their name is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shown = folder / "shown"
        descriptor = os.open(self._shown, os.O_WRONLY | os.O_CREAT)
        self.console = Console(["milepost"], descriptor=descriptor)
        self.changes: list[dict[str, int]] = []
        self.supervisor = Supervisor(self.console, keep_open=descriptor, on_change=self.changes.append)

    def component(self, name: str, script: str = OBEDIENT, rank: Rank = Rank.FUNCTION) -> Component:
        async def is_ready() -> bool:
            return (self.folder / name).exists()

        return Component(
            name=name,
            rank=rank,
            command=["sh", "-c", script.replace("{name}", name)],
            url=f"test:{name}",
            env={"PATH": os.environ["PATH"]},
            folder=self.folder,
            is_ready=is_ready,
        )

    @property
    def lines(self) -> list[str]:
        return self._shown.read_text().splitlines()

    async def shows(self, part: str, times: int = 1) -> None:
        await eventually(lambda: sum(part in line for line in self.lines) >= times, what=f"{times} x {part!r}")


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.supervisor.kill()
    await made.supervisor.stop()
    made.console.close()


async def test_ends_from_the_front_to_the_back(stage: Stage) -> None:
    ranks = {"a": Rank.SERVER, "b": Rank.FUNCTION, "c": Rank.BRIDGE, "d": Rank.GATEWAY}
    await stage.supervisor.start([stage.component(name, rank=rank) for name, rank in ranks.items()])
    assert stage.supervisor.pids.keys() == ranks.keys()
    await stage.supervisor.stop()
    await stage.shows("bye", 4)
    assert [line.split()[0] for line in stage.lines if line.endswith("bye")] == ["d", "c", "b", "a"]
    assert stage.changes[-1] == {}


async def test_what_keeps_dying_is_started_after_growing_pauses(stage: Stage) -> None:
    script = "touch a; until test -f end; do sleep 0.02; done; exit 3"
    await stage.supervisor.start([stage.component("a", script)])
    (stage.folder / "end").touch()
    await stage.shows("a ended with code 3; starting it again in 0.5 s")
    said = [line.partition("| ")[2] for line in stage.lines if "starting" in line]
    assert said[:2] == ["a ended with code 3; starting it again", "a ended with code 3; starting it again in 0.25 s"]


async def test_what_ends_before_it_was_ready_is_a_fault(stage: Stage) -> None:
    with pytest.raises(Failed, match="a ended with code 7 before it was ready"):
        await stage.supervisor.start([stage.component("a", "exit 7"), stage.component("b")])


async def test_a_command_that_does_not_exist_is_a_fault(stage: Stage) -> None:
    with pytest.raises(Failed, match="a ended with code 1"):
        await stage.supervisor.start([stage.component("a", "exec /nowhere/at/all || exit 1")])


async def test_what_is_not_ready_in_time_is_a_fault(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "READY_WITHIN", 0.2)
    (stage.folder / "b").touch()  # ready from the first look on
    with pytest.raises(Failed, match=r"not ready within 0\.2 s: a$"):
        await stage.supervisor.start([stage.component("a", "exec sleep 1000"), stage.component("b")])


async def test_what_does_not_end_in_time_is_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE", 0.2)
    await stage.supervisor.start([stage.component("a", "trap '' TERM; touch a; while :; do sleep 0.02; done")])
    await stage.supervisor.stop()
    await stage.shows("a did not end within 0.2 s: killed")
    assert stage.supervisor.pids == {}


async def test_kill_waits_for_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE", 1000)
    await stage.supervisor.start([stage.component("a", "trap '' TERM; touch a; while :; do sleep 0.02; done")])
    stage.supervisor.kill()
    async with asyncio.timeout(30):
        await stage.supervisor.stop()


async def test_restart_is_no_death(stage: Stage) -> None:
    await stage.supervisor.start([stage.component("a")])
    before = stage.supervisor.pids["a"]
    await stage.supervisor.restart(["a"])
    await stage.shows("a is ready again")
    assert stage.supervisor.pids["a"] != before
    assert not any("starting it again" in line for line in stage.lines)


async def test_a_patient_one_waits_for_what_is_broken_to_be_mended(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "FIRST_PAUSE", 1000)
    monkeypatch.setattr(keeper, "LONGEST_PAUSE", 1000)
    patient = Supervisor(stage.console, keep_open=1, patient=True)
    starting = asyncio.create_task(patient.start([stage.component("a", f"test -f mended || exit 1; {OBEDIENT}")]))
    await stage.shows("a ended with code 1; starting it again in 1000 s")
    (stage.folder / "mended").touch()
    async with asyncio.timeout(30):  # sooner than it would have been tried by itself
        await patient.restart(["a"])
        await starting
    await patient.stop()


async def test_what_a_component_started_dies_with_it(stage: Stage) -> None:
    await stage.supervisor.start([stage.component("a", "sleep 1000 & echo $! > grandchild; touch a; wait")])
    grandchild = int((stage.folder / "grandchild").read_text())
    assert is_alive(grandchild)
    os.kill(stage.supervisor.pids["a"], signal.SIGKILL)
    await eventually(lambda: not is_alive(grandchild))


async def test_every_output_is_shown_and_harms_nothing(stage: Stage) -> None:
    script = (
        r"printf 'half'; printf ' line\r\n\377\n'; head -c 200000 /dev/zero | tr '\0' x; echo; touch a; exec sleep 1000"
    )
    await stage.supervisor.start([stage.component("a", script)])
    await stage.shows("x")
    await eventually(lambda: sum(line.count("x") for line in stage.lines) >= 200_000)
    assert any(line.endswith("| half line") for line in stage.lines)
    assert any(line.endswith("| \N{REPLACEMENT CHARACTER}") for line in stage.lines)
