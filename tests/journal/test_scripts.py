"""Python and Lua agree on every script: by a signature that is compared at import, not by position."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import pytest
from redis.asyncio import Redis

from milepost.journal import Journal, Scripts, keys
from milepost.journal.scripts import SCRIPTS, EntryRow, StreamRow, script, whole_text
from tests.journal.events import RAW

LUA = files("milepost.journal") / "lua"


class Other(NamedTuple):
    """Fields in another order than those of EntryRow."""

    entry: str
    stream: str


class Positional:
    """Methods named like a script, each with another signature than the script has."""

    @staticmethod
    def missing() -> None:
        @script
        async def renew(self: Scripts, *, stage: str, entries: Sequence[EntryRow]) -> Any: ...

    @staticmethod
    def more() -> None:
        @script
        async def renew(
            self: Scripts, *, stage: str, consumer: str, claim: int, entries: Sequence[EntryRow]
        ) -> Any: ...

    @staticmethod
    def swapped() -> None:
        @script
        async def renew(self: Scripts, *, consumer: str, stage: str, entries: Sequence[EntryRow]) -> Any: ...

    @staticmethod
    def renamed() -> None:
        @script
        async def renew(self: Scripts, *, stage: str, name: str, entries: Sequence[EntryRow]) -> Any: ...

    @staticmethod
    def without_rows() -> None:
        @script
        async def renew(self: Scripts, *, stage: str, consumer: str) -> Any: ...

    @staticmethod
    def other_rows() -> None:
        @script
        async def renew(self: Scripts, *, stage: str, consumer: str, entries: Sequence[StreamRow]) -> Any: ...

    @staticmethod
    def swapped_fields() -> None:
        @script
        async def renew(self: Scripts, *, stage: str, consumer: str, entries: Sequence[Other]) -> Any: ...


WRONG = [name for name in vars(Positional) if not name.startswith("_")]


@pytest.mark.parametrize("wrong", WRONG)
def test_method_whose_signature_differs_from_its_script_is_refused_at_import(wrong: str) -> None:
    before = dict(SCRIPTS)
    with pytest.raises(TypeError, match=r"lua/renew\.lua begins with '-- renew\(stage, consumer, entries\[stream"):
        getattr(Positional, wrong)()
    assert before == SCRIPTS


def test_method_without_a_script_is_refused_at_import() -> None:
    with pytest.raises(FileNotFoundError):

        @script
        async def nothing(self: Scripts) -> Any: ...


def test_every_lua_file_has_a_method() -> None:
    lua = {file.name.removesuffix(".lua") for file in LUA.iterdir() if file.name.endswith(".lua")}
    assert lua - {"common"} == set(SCRIPTS)
    assert all(callable(getattr(Scripts, name)) for name in SCRIPTS)


def test_script_has_the_shared_definitions_that_it_uses_and_no_others() -> None:
    shared = (
        "local A, B = 1, 2\nlocal function a()\n  return A\nend\n-- b uses a\nlocal function b()\n  return a()\nend\n"
    )
    assert whole_text("return 'no b' -- a", "local b = 1\n") == "local b = 1\nreturn 'no b' -- a"
    assert whole_text("return 1 -- a", shared) == "return 1 -- a"
    assert "local function b" not in (text := whole_text("return a()", shared))
    assert text.startswith("local A, B = 1, 2\nlocal function a()\n  return A\nend\n")
    assert whole_text("return b()", shared) == shared.replace("-- b uses a", "") + "return b()"


async def test_server_compiles_every_script(redis: Redis) -> None:
    for text in SCRIPTS.values():
        assert await redis.script_load(text)


async def test_arguments_are_given_by_name_in_any_order(journal: Journal, redis: Redis) -> None:
    entries = [EntryRow(keys.journal(RAW), "1-1"), EntryRow(keys.journal(RAW), "1-2")]
    assert await journal.scripts.renew(entries=entries, consumer="one", stage="distance") == [0, 1]
    assert await journal.scripts.renew(stage="distance", consumer="one", entries=[]) == []
    with pytest.raises(KeyError):
        await journal.scripts.renew(stage="distance", consumer="one")  # type: ignore[call-arg]


async def test_integers_are_numbers_and_digits_of_a_text_stay_a_text(journal: Journal, redis: Redis) -> None:
    """An id such as 007 or a channel named 1e3 must not change on its way."""
    holder = await journal.scripts.lease(token="007", ttl=10_000, known="unknown")
    assert holder == b"007"
    assert await redis.pttl(keys.LEASE) > 9_000
