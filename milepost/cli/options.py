"""Options and arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from milepost.cli import locate

Data = Annotated[
    Path,
    typer.Option("--data", metavar="DIR", help="Data folder of a running `milepost up`, whose stack.json is read."),
]
RedisUrl = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        envvar="REDIS_URL",
        show_default=f"the one in DIR/stack.json, else {locate.REDIS}",
        help="The Redis to use.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
StageName = Annotated[str, typer.Argument(metavar="STAGE", help="The stage's name.")]
StageOrBridge = Annotated[
    str, typer.Argument(metavar="STAGE", help="The stage's name, or `bridge` for unreadable messages.")
]
Entries = Annotated[list[str] | None, typer.Argument(metavar="ENTRY", help="Entries, as listed.")]
Entry = Annotated[str, typer.Argument(metavar="ENTRY", help="The entry, as listed.")]
EventId = Annotated[str | None, typer.Option("--id", help="All dead letters of this event id.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters of the stage.")]
ProjectFolder = Annotated[Path, typer.Option(metavar="DIR", help="The project: its functions/ and helm/values.yaml.")]
