"""Options and arguments that several commands have."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from milepost.cli import locate
from milepost.events.payload import number


def at_least(least: float, most: float = math.inf) -> Callable[[str], float]:
    """Parser of an option that is a number: reads it as payloads do, so also a pasted minus sign or no-break space."""

    def parse(text: str) -> float:
        try:
            value = number(text)
        except ValueError as fault:
            raise typer.BadParameter(f"{text!r} {fault}") from None
        if not least <= value <= most:
            raise typer.BadParameter(f"{value:g} is not between {least:g} and {most:g}")
        return value

    return parse


def port(text: str) -> int:
    """Parser of a port number."""
    value = at_least(0, 65535)(text)
    if value != int(value):
        raise typer.BadParameter(f"{text} is not a whole number")
    return int(value)


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
StageName = Annotated[
    str, typer.Argument(metavar="STAGE", help="The stage's name, or `bridge` for unreadable messages.")
]
Entries = Annotated[list[str] | None, typer.Argument(metavar="ENTRY", help="Entries, as listed.")]
EventId = Annotated[str | None, typer.Option("--id", help="All dead letters of this event id.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters of the stage.")]
ProjectFolder = Annotated[Path, typer.Option(metavar="DIR", help="The project: its functions/ and helm/values.yaml.")]
