"""`milepost asyncapi`: the project's channels as an AsyncAPI document."""

import importlib
import json
import sys
from pathlib import Path

from milepost import stages_table
from milepost.cli import vocabulary
from milepost.cli.exits import Exit
from milepost.cli.local import layout
from milepost.errors import ConfigurationError
from milepost.events import asyncapi

ENTRANCE = "raw_input"
"""The channel on which a gateway publishes."""


def print_document(project: Path, version: str) -> Exit:
    """Print it. Raises ConfigurationError for a project that is not whole."""
    stages = stages_table.read(project)
    vocabulary.read(project)  # which says what is wrong with the file
    sys.path.insert(0, str(project))
    try:
        payloads = asyncapi.payloads_of(importlib.import_module("functions.payloads"))
    except ImportError as fault:
        raise ConfigurationError(f"{project / vocabulary.PAYLOADS}: {fault}") from None
    doors = {"gateway": ENTRANCE} if layout.has_gateway(project) else {}
    print(json.dumps(asyncapi.document(payloads, stages, doors, version=version), indent=2))
    return Exit.DONE
