"""The files that `milepost new` writes for a stage: a working function, its payload class, its contract test."""

from collections.abc import Mapping
from dataclasses import dataclass

LONGEST_LINE = 120


@dataclass(frozen=True)
class StageTemplates:
    """A new stage and the names of its payload classes. `gives`: each channel that it emits, with its class."""

    name: str
    consumes: str
    takes: str
    takes_bare: bool
    gives: Mapping[str, str]

    @property
    def function(self) -> str:
        """The name of its Python function."""
        return self.name.replace("-", "_")

    def main(self) -> str:
        """functions/NAME/main.py."""
        if not self.gives:
            return _END.format(name=self.name, head=self._head("None"), takes=self.takes, function=self.function)
        gives = list(self.gives.values())
        classes = sorted({self.takes, *gives})
        line = f"from functions.payloads import {', '.join(classes)}"
        if len(line) > LONGEST_LINE:
            line = "from functions.payloads import (\n" + "".join(f"    {one},\n" for one in classes) + ")"
        return _HOP.format(
            name=self.name,
            head=self._head(" | ".join(gives)),
            imports=line,
            gives=gives[0],
            function=self.function,
            choice="" if len(gives) == 1 else _CHOICE,
        )

    def payload(self, channel: str) -> str:
        """The payload class of a new channel, for the end of functions/payloads.py."""
        return _PAYLOAD.format(gives=self.gives[channel], emits=channel, name=self.name)

    def contract(self, depth: int) -> str:
        """The contract test, `depth` folders below the project's."""
        first = next(iter(self.gives.values()), "")
        classes = sorted({self.takes, first or self.takes})
        channels = [f'"{channel}"' for channel in self.gives]
        answers = f"    answers: ClassVar = {{{channels[0]}: example({self.takes})}}\n" if len(channels) > 1 else ""
        return _CONTRACT.format(
            name=self.name,
            title="".join(part.capitalize() for part in self.name.split("-")),
            imports=", ".join(classes),
            consumes=self.consumes,
            emits=f"emits: ClassVar = {_list(channels)}" if channels[1:] else f"emits = {''.join(channels) or None}",
            answers=answers,
            takes=self.takes,
            invalid="{}" if self.takes_bare else "[]",
            function=self.function,
            depth=depth,
            expected=f"isinstance(run(main, example({self.takes})), {first})"
            if first
            else f"run(main, example({self.takes})) is None",
            does="returns_its_payload" if first else "returns_nothing",
        )

    def _head(self, gives: str) -> str:
        line = f"def {self.function}(payload: {self.takes}) -> {gives}:"
        if len(line) <= LONGEST_LINE:
            return line
        start = f"def {self.function}(\n    payload: {self.takes},\n) -> "
        if len(gives) + 6 <= LONGEST_LINE:
            return f"{start}{gives}:"
        inside = gives if len(gives) + 4 <= LONGEST_LINE else gives.replace(" | ", "\n    | ")
        return f"{start}(\n    {inside}\n):"


def _list(channels: list[str]) -> str:
    """A list of channels behind `    emits: ClassVar = `, on one line if that is short enough."""
    line = f"[{', '.join(channels)}]"
    if len(line) + 22 <= LONGEST_LINE:
        return line
    return "[\n" + "".join(f"        {channel},\n" for channel in channels) + "    ]"


_HOP = '''"""The stage {name}."""

{imports}
from milepost import stage


{head}
    """Return the submitted data as text. Write here what your stage makes of it.{choice}"""
    return {gives}(text=payload.model_dump_json())


main = stage({function}, inline=True)
'''

_CHOICE = """

    The class of what it returns chooses the channel.
    """

_END = '''"""The stage {name}."""

import logging

from functions.payloads import {takes}
from milepost import stage
from milepost.observe.logs import Fields

log = logging.getLogger("milepost.{name}")


{head}
    """Log that an event came. Write here what your stage does with it."""
    log.warning(Fields(outcome="nothing-done-yet", payload=type(payload).__name__))


main = stage({function}, inline=True)
'''

_PAYLOAD = '''

class {gives}(Payload, channel="{emits}"):
    """The answer of {name}."""

    text: str
'''

_CONTRACT = '''"""The stage {name}: alone, and as its image runs it."""

from pathlib import Path
from typing import ClassVar

from functions.payloads import {imports}
from milepost.testing import example, load, run
from milepost.testing.contract import StageContract

main = load(Path(__file__).parents[{depth}] / "functions" / "{name}" / "main.py")


class Test{title}(StageContract):
    stage = "{name}"
    consumes = "{consumes}"
    {emits}
    data = example({takes})
{answers}    invalid: ClassVar = [({invalid}, "data")]


def test_{function}_{does}() -> None:
    assert {expected}
'''
