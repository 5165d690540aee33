"""Write the test of a dead letter."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from milepost.events.event import Event
from milepost.events.payload import Payload, faults_of
from milepost.events.strict_json import loads
from milepost.journal import DeadLetter
from milepost.observe.logs import masked


def text(letter: DeadLetter, event: Event, emits: Sequence[str], *, split: bool = False, keep: bool) -> str:
    """The module's text. `emits`: the channels of the stage's reply. `split`: it may give several. `keep`: leave e-mail
    addresses as they are.
    """
    fields = loads(event.to_json())
    shown = json.dumps(fields if keep else mask(fields), indent=4)
    reason = " ".join((letter.reason if keep else masked(letter.reason)).split())
    name = letter.stage.replace("-", "_")
    channel = f"== {emits[0]!r}" if len(emits) == 1 else f"in {set(emits)!r}"
    expected = "assert reply is None"
    if emits:  # a stage whose annotation does not name None is refused one
        expected += f" or reply.type {channel}"
    call, result = "answer", "reply"
    if split:
        call, result, expected = "answers", "replies", f"assert all(reply.type {channel} for reply in replies)"
    return f'''{_docstring(f"A dead letter of the stage {letter.stage}, buried {letter.at:%Y-%m-%d}: {reason}")}

import asyncio
from pathlib import Path

from milepost import Event
from milepost.testing import {call}, load

MAIN = Path(__file__).parents[2] / "functions" / {letter.stage!r} / "main.py"
EVENT = r"""
{shown}
"""


def test_{name}_takes_the_event_of_{letter.entry.replace("-", "_")}() -> None:
    {result} = asyncio.run({call}(load(MAIN), Event.from_json(EVENT)))
    {expected}
'''


def mask(value: Any) -> Any:
    """Mask e-mail addresses in JSON, as logs do: a***@example.org is an address too."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {masked(name): mask(item) for name, item in value.items()}
    return [mask(item) for item in value] if isinstance(value, list) else value


def is_masking_seen(payload: type[Payload], data: Any) -> bool:
    """Whether the payload class says something else of the masked data: then an address is at fault, or its form."""
    return bool(_verdict(payload, data) != _verdict(payload, mask(data)))


def _verdict(payload: type[Payload], data: Any) -> Any:
    try:
        payload.model_validate(data)
    except ValidationError as refusal:
        return faults_of(refusal)
    except Exception as fault:  # noqa: BLE001 - the project's validators may raise anything
        return type(fault)
    return None


def _docstring(sentence: str) -> str:
    """A docstring of lines that are not too long; the reason may hold anything."""
    words = sentence.encode("ascii", "backslashreplace").decode().replace("\\", "/").replace('"', "'").split()
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > 110:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return '"""' + "\n".join(lines) + ('."""' if len(lines) == 1 else '.\n"""')
