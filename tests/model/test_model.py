"""The search in a small size. `make model` does the whole."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack

import pytest

from milepost.journal import Scripts, keys
from milepost.journal.scripts import SCRIPTS, Text
from tests.model.__main__ import WORLDS
from tests.model.search import FoundError, Result, replay, search
from tests.model.world import OUT, Bounds, World

Worlds = Callable[..., World]


@pytest.fixture
async def worlds(redis_url: str, redis: object) -> AsyncIterator[Worlds]:
    async with AsyncExitStack() as stack:

        def make(bounds: Bounds, **wirings: str | None) -> World:
            world = World(redis_url, bounds, wirings)
            stack.push_async_callback(world.close)
            return world

        yield make


NONE = Bounds(crashes=0, parks=0, burials=0, lost_answers=0, duplicates=0, refusals=0, replays=0)


@pytest.mark.parametrize(
    ("bounds", "wirings"),
    [
        (Bounds(burials=0, replays=0, lost_answers=0, refusals=0), {"a": OUT}),
        (Bounds(crashes=0, parks=0, duplicates=0, refusals=0), {"a": OUT}),
        (Bounds(parks=0, burials=0, replays=0, duplicates=0), {"a": OUT}),
        (Bounds(burials=0, replays=0, lost_answers=0, refusals=0, duplicates=0, parks=0), {"a": OUT, "b": None}),
    ],
    ids=["crash and park", "bury, replay, lost answer", "crash, lost answer, refusal", "two groups"],
)
async def test_no_state_breaks_an_invariant(worlds: Worlds, bounds: Bounds, wirings: dict[str, str | None]) -> None:
    result: Result = await search(worlds(bounds, **wirings))
    print(result)
    assert result.complete
    assert result.states > 50


async def test_search_finds_a_missing_gate(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check an event that two bridges hold is published twice."""
    world = worlds(Bounds(parks=0, burials=0, replays=0, duplicates=0, refusals=0, lost_answers=0), a=OUT)
    text = "if pending[row.stream][row.entry] then"
    break_scripts(monkeypatch, text, "if true then")
    with pytest.raises(FoundError, match="completed") as found:
        await search(world)
    assert len(found.value.path) <= 5
    with pytest.raises(AssertionError, match="completed"):
        await replay(world, list(found.value.path))


async def test_search_finds_an_event_that_nothing_moves_on(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without redeliveries an event of a crashed bridge stays where it is."""
    world = worlds(Bounds(parks=0, burials=0, replays=0, duplicates=0, refusals=0, lost_answers=0), a=OUT)

    async def nothing(_: World, *__: object) -> None:
        return

    monkeypatch.setattr(World, "do_take_over", nothing)
    with pytest.raises(FoundError, match="cannot reach the end"):
        await search(world)


def break_scripts(monkeypatch: pytest.MonkeyPatch, text: str, instead: str) -> None:
    """Have Redis run scripts in which this piece of text is another."""

    async def broken(self: Scripts, _: str, script: str, arguments: Iterable[Text]) -> object:
        return await self.connection.call("EVAL", script.replace(text, instead), 1, keys.JOURNALS, *arguments)

    assert text in SCRIPTS["complete"]
    monkeypatch.setattr(Scripts, "run", broken)


def test_the_whole_search_has_a_bound_for_every_fault() -> None:
    assert {name for bounds, _ in WORLDS.values() for name, value in vars(bounds).items() if value} == set(vars(NONE))
