"""The files that `milepost new` writes for a stage: a working function, its payload class, its contract test."""

from dataclasses import dataclass

LONGEST_LINE = 120


@dataclass(frozen=True)
class StageTemplates:
    """A new stage and the names of its payload classes. `emits` and `gives` are None for one that emits nothing."""

    name: str
    consumes: str
    takes: str
    takes_bare: bool
    emits: str | None
    gives: str | None

    @property
    def function(self) -> str:
        """The name of its Python function."""
        return self.name.replace("-", "_")

    def main(self) -> str:
        """functions/NAME/main.py."""
        if self.gives is None:
            return _END.format(name=self.name, head=self._head("None"), takes=self.takes, function=self.function)
        classes = sorted({self.takes, self.gives})
        line = f"from functions.payloads import {', '.join(classes)}"
        if len(line) > LONGEST_LINE:
            line = "from functions.payloads import (\n" + "".join(f"    {one},\n" for one in classes) + ")"
        return _HOP.format(
            name=self.name, head=self._head(self.gives), imports=line, gives=self.gives, function=self.function
        )

    def payload(self) -> str:
        """The payload class of a new channel, for the end of functions/payloads.py."""
        return _PAYLOAD.format(gives=self.gives, emits=self.emits, name=self.name)

    def contract(self, depth: int) -> str:
        """The contract test, `depth` folders below the project's."""
        classes = sorted({self.takes, self.gives or self.takes})
        return _CONTRACT.format(
            name=self.name,
            title="".join(part.capitalize() for part in self.name.split("-")),
            imports=", ".join(classes),
            consumes=self.consumes,
            emits=f'"{self.emits}"' if self.emits else "None",
            takes=self.takes,
            invalid="{}" if self.takes_bare else "[]",
            function=self.function,
            depth=depth,
            expected=f"isinstance(run(main, example({self.takes})), {self.gives})"
            if self.gives
            else f"run(main, example({self.takes})) is None",
            does="returns_its_payload" if self.gives else "returns_nothing",
        )

    def _head(self, gives: str) -> str:
        line = f"def {self.function}(payload: {self.takes}) -> {gives}:"
        return line if len(line) <= LONGEST_LINE else line.replace("(", "(\n    ").replace(")", ",\n)")


_HOP = '''"""The stage {name}."""

{imports}
from milepost import stage


{head}
    """Return the submitted data as text. Write here what your stage makes of it."""
    return {gives}(text=payload.model_dump_json())


main = stage({function}, inline=True)
'''

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
    emits = {emits}
    data = example({takes})
    invalid: ClassVar = [({invalid}, "data")]


def test_{function}_{does}() -> None:
    assert {expected}
'''
