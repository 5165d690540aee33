"""`milepost asyncapi`: the project's channels as an AsyncAPI document."""

import json
from pathlib import Path

from milepost import __version__, stage_values
from milepost.cli import payload_classes
from milepost.cli.local.layout import has_gateway
from milepost.cli.options import ProjectFolder
from milepost.events import asyncapi as documents
from milepost.graph import Graph


def asyncapi(*, project: ProjectFolder = Path()) -> None:
    """Print the project's channels as an AsyncAPI 3.0 document: what each carries, who publishes, who consumes.

    It is made of the payload classes and `stages:` in the values; nothing has to run. The gateway serves the same
    document at `/asyncapi.json`, and as a page at `/channels`.

    `milepost asyncapi > asyncapi.json` writes a file for generators of clients and of documents.
    """
    folder = project.resolve()
    stages = stage_values.read(folder)
    payloads = payload_classes.read(folder).by_channel.values()
    # A gateway publishes the events that no stage emits: those of the first such channel in the values.
    graph = Graph(stages)
    begins = [stage.consumes for stage in stages if not graph.emitters(stage.consumes)]
    doors = {"gateway": begins[0]} if begins and has_gateway(folder) else {}
    print(json.dumps(documents.document(payloads, stages, doors, version=__version__), indent=2))
