"""The `milepost` command: its subcommands, each in a module of its name, and how a fault ends it."""

import sys
from typing import Annotated

import typer
from redis.exceptions import RedisError

from milepost import __version__
from milepost.cli import asyncapi, check, dead, new, publish, send, stages, up, watch
from milepost.cli.exits import EXIT_CODES, Exit, OutputClosed, exit_code
from milepost.cli.text import say
from milepost.errors import MilepostError

app = typer.Typer(
    name="milepost",
    help="An event-driven pipeline of serverless Python functions, fed by Redis.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=EXIT_CODES)(up.up)
app.command(epilog=EXIT_CODES)(new.new)
app.command(epilog=EXIT_CODES)(asyncapi.asyncapi)
app.command(epilog=EXIT_CODES)(check.check)
app.command(epilog=EXIT_CODES)(publish.publish)
# An unknown option is taken for an argument, since a latitude may begin with a minus.
app.command(epilog=EXIT_CODES, context_settings={"ignore_unknown_options": True})(send.send)
app.command(epilog=EXIT_CODES)(watch.watch)
app.add_typer(stages.app, name="stages")
app.add_typer(dead.app, name="dead")


@app.callback(invoke_without_command=True)
def milepost(
    *,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False,
) -> None:
    if show_version:
        print(f"milepost {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command that `sys.argv` names, and end with its exit code."""
    try:
        app()
    except OutputClosed:
        sys.exit(Exit.OUTPUT_CLOSED)
    except MilepostError as fault:
        say(str(fault))
        sys.exit(exit_code(fault))
    except (RedisError, ConnectionError) as fault:
        say(f"Redis: {fault}")
        sys.exit(Exit.UNREACHABLE)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
