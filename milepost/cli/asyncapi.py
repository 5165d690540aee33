"""`milepost asyncapi`: the project's channels as an AsyncAPI document."""

import importlib
import json
import sys
from pathlib import Path

from milepost import stages_table
from milepost.cli import payload_classes
from milepost.cli.local.layout import has_gateway
from milepost.cli.options import Project
from milepost.cli.text import installed_version
from milepost.errors import ConfigurationError
from milepost.events import asyncapi as documents

ENTRANCE = "raw_input"
"""The channel on which a gateway publishes."""


def asyncapi(*, project: Project = Path()) -> None:
    """Print the project's channels as an AsyncAPI 3.0 document: what each carries, who publishes, who consumes.

    It is made of the payload classes and the stages table; nothing has to run. The gateway serves the same at
    `/asyncapi.json`, and at `/channels` to be read.

    `milepost asyncapi > asyncapi.json` is what generators of clients and of documents take.
    """
    folder = project.resolve()
    stages = stages_table.read(folder)
    payload_classes.read(folder)  # raises ConfigurationError saying what is wrong with the file
    sys.path.insert(0, str(folder))
    try:
        payloads = documents.payloads_of(importlib.import_module("functions.payloads"))
    except ImportError as fault:
        raise ConfigurationError(f"{folder / payload_classes.PAYLOADS}: {fault}") from None
    doors = {"gateway": ENTRANCE} if has_gateway(folder) else {}
    print(json.dumps(documents.document(payloads, stages, doors, version=installed_version()), indent=2))
