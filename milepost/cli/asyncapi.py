"""`milepost asyncapi`: the project's channels as an AsyncAPI document."""

import json
from pathlib import Path

from milepost import stages_table
from milepost.cli import payload_classes
from milepost.cli.local.layout import has_gateway
from milepost.cli.options import ProjectFolder
from milepost.cli.text import installed_version
from milepost.events import asyncapi as documents

GATEWAY_CHANNEL = "raw_input"
"""The channel on which a gateway publishes."""


def asyncapi(*, project: ProjectFolder = Path()) -> None:
    """Print the project's channels as an AsyncAPI 3.0 document: what each carries, who publishes, who consumes.

    It is made of the payload classes and the stages table; nothing has to run. The gateway serves the same document
    at `/asyncapi.json`, and as a page at `/channels`.

    `milepost asyncapi > asyncapi.json` writes a file for generators of clients and of documents.
    """
    folder = project.resolve()
    stages = stages_table.read(folder)
    payloads = payload_classes.read(folder).by_channel.values()
    doors = {"gateway": GATEWAY_CHANNEL} if has_gateway(folder) else {}
    print(json.dumps(documents.document(payloads, stages, doors, version=installed_version()), indent=2))
