"""The project's payload classes, from running its functions/payloads.py."""

import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from milepost.errors import ConfigurationError
from milepost.events.asyncapi import payloads_of
from milepost.events.payload import Payload, RootPayload

PAYLOADS = Path("functions/payloads.py")


@dataclass(frozen=True)
class PayloadClasses:
    """`by_channel`: channel → class. `names`: every name that the module defines or imports. `text`: its source."""

    by_channel: dict[str, type[Payload]]
    names: frozenset[str]
    text: str

    def is_bare(self, channel: str) -> bool:
        """Whether the channel carries one bare JSON value."""
        return issubclass(self.by_channel[channel], RootPayload)


def read(project: Path) -> PayloadClasses:
    """Run the project's functions/payloads.py. Raises ConfigurationError naming the file and the fault."""
    path = project / PAYLOADS
    if not path.is_file():
        raise ConfigurationError(f"{path}: not found; run this in the project's folder")
    sys.path.insert(0, str(project))  # for its imports
    try:
        names = runpy.run_path(str(path), run_name="functions.payloads")
    except Exception as fault:  # noqa: BLE001 - the project's code may raise anything
        raise ConfigurationError(f"{path}: {fault}") from None
    payloads = payloads_of(SimpleNamespace(**names))
    return PayloadClasses({payload.channel: payload for payload in payloads}, frozenset(names), path.read_text())
