"""The mutator of Lua sources. `make mutants` has the whole."""

import re
from functools import cache

from redis.asyncio import Redis

from milepost.journal.scripts import SCRIPTS
from tests.mutants.__main__ import scripts_with, sources
from tests.mutants.lua import Mutant, mutants, traced
from tests.mutants.reasons import REASONS

SOURCE = """\
local left = 3  -- no mutant of 'this' < 4
if left > 0 and not closed then
  redis.call('SET', KEY, 'x', 'NX', 'PX', time)
  total = total + left
end
return left
"""


@cache
def every() -> list[tuple[str, str, Mutant]]:
    """Return all mutants of the scripts: name and source of the script, and the mutant."""
    return [(name, source, mutant) for name, source in sources().items() for mutant in mutants(source)]


def test_each_call_condition_and_constant_is_changed_once() -> None:
    changed = [
        next(
            line for line, before in zip(mutant.source.splitlines(), SOURCE.splitlines(), strict=True) if line != before
        )
        for mutant in mutants(SOURCE)
    ]
    assert [line.strip() for line in changed] == [
        "local left = 4  -- no mutant of 'this' < 4",
        "if not (left > 0 and not closed) then",
        "if left >= 0 and not closed then",
        "if left > 1 and not closed then",
        "if left > 0 or not closed then",
        "if left > 0 and  closed then",
        "",
        "redis.call('SET', KEY, 'x', 'PX', time)",
        "redis.call('SET', KEY, 'x', 'NX')",
        "",
        "total = total - left",
    ]


def test_traced_source_names_each_line_with_a_statement() -> None:
    assert [line.partition(" ")[0] for line in traced(SOURCE, "it").splitlines()] == [
        "trace('it:1')",
        "trace('it:2')",
        "trace('it:3')",
        "trace('it:4')",
        "end",
        "trace('it:6')",
    ]


async def test_mutants_of_the_scripts_are_lua(redis: Redis) -> None:
    """Redis compiles one in ten of them."""
    assert len(every()) > 800
    for name, source, mutant in every()[::10]:
        text = next(iter(scripts_with(name, source, mutant).values()))
        assert text not in SCRIPTS.values()
        await redis.script_load(text)


def test_each_reason_to_survive_is_for_a_mutant() -> None:
    changes = [(name, mutant.change) for name, _, mutant in every()]
    patterns = [(script, pattern) for script, reasons in REASONS.items() for pattern in reasons]
    assert [
        (script, pattern)
        for script, pattern in patterns
        if not any(name == script and re.search(pattern, change) for name, change in changes)
    ] == []
