"""The commands and their options; each command's work is in the module of its name."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from redis.exceptions import RedisError

from milepost.cli import asyncapi, dead, new, options, publish, reach, send, stages, watch
from milepost.cli.exits import EXIT_CODES, Exit, OutputClosed, exit_code
from milepost.cli.local import data_folder
from milepost.cli.local.supervisor import READY_WITHIN
from milepost.cli.options import All, AsJson, Data, Entries, EventId, Project, RedisUrl, StageName, Yes
from milepost.cli.text import installed_version, say
from milepost.cli.up import Options
from milepost.cli.up import up as run_up
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
stages_app = typer.Typer(help="Show the stages that bridges serve or served, and what waits for each.")
dead_app = typer.Typer(help="Look at dead letters; replay or drop them.", epilog=EXIT_CODES, no_args_is_help=True)
app.add_typer(stages_app, name="stages")
app.add_typer(dead_app, name="dead")


@app.callback(invoke_without_command=True)
def milepost(
    *,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False,
) -> None:
    if show_version:
        print(f"milepost {installed_version()}")
        raise typer.Exit


@app.command(epilog=EXIT_CODES)
def up(
    *,
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Where data, e-mails, lock and stack.json are kept.")
    ] = data_folder.DEFAULT,
    port: Annotated[
        int, typer.Option(metavar="PORT", parser=options.port, help="The gateway's port; 0: any free one.")
    ] = 8000,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload", help="Restart what runs a source file that changes. helm/values.yaml is read at the start only."
        ),
    ] = False,
    ready_within: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            parser=options.at_least(1),
            help="How long each process may take from its start until it is ready; no limit with --reload.",
        ),
    ] = READY_WITHIN,
    project: Project = Path(),
) -> None:
    """Run the whole pipeline on this machine.

    Starts an embedded Valkey and MongoDB-compatible server (or uses REDIS_URL and MONGO_URL), the functions, the
    bridge and the gateway, all on 127.0.0.1; says when each is ready, and then `ready` and the gateway's address. A
    project without gateway/ is reached by its bridge, and one whose stages want no MongoDB has none.
    What dies is started again. DIR/stack.json tells where everything is while it runs, and is gone after a clean
    end. Ctrl-C ends everything in order, a second one at once.

    `milepost up --port 9000 --data /var/tmp/milepost` listens and keeps its data elsewhere; the other commands then
    need the same `--data`.
    """
    chosen = Options(project.resolve(), data.resolve(), port=port, reload=reload, ready_within=ready_within)
    raise typer.Exit(run_up(chosen, dict(os.environ)))


@app.command("new", epilog=EXIT_CODES)
def new_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The stage's name, such as geocode.")],
    *,
    on: Annotated[str, typer.Option(metavar="CHANNEL", help="The channel that it consumes.")],
    emits: Annotated[
        str | None, typer.Option(metavar="CHANNEL", help="The channel that it emits; made if there is none.")
    ] = None,
    project: Project = Path(),
) -> None:
    """Write a new stage into the project: its function, its contract test, and its entries wherever stages are listed.

    All of it, or nothing: whatever is wrong with the names is told before the first file is written.

    `milepost new geocode --on raw_input --emits place` makes `functions/geocode/main.py`, to be filled in.
    """
    raise typer.Exit(new.new(project.resolve(), name, on, emits))


@app.command("asyncapi", epilog=EXIT_CODES)
def asyncapi_command(
    *,
    project: Project = Path(),
) -> None:
    """Print the project's channels as an AsyncAPI 3.0 document: what each carries, who publishes, who consumes.

    It is made of the payload classes and the stages table; nothing has to run. The gateway serves the same at
    `/asyncapi.json`, and at `/channels` to be read.

    `milepost asyncapi > asyncapi.json` is what generators of clients and of documents take.
    """
    raise typer.Exit(asyncapi.print_document(project.resolve(), installed_version()))


@app.command("publish", epilog=EXIT_CODES)
def publish_command(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="The channel, such as raw_input.")],
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="JSON or text; `-`: one message a line of stdin.")],
    *,
    event_id: Annotated[
        str | None, typer.Option("--id", help="The event's id; publishing it again does nothing.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="The event's source.", show_default="/redis/CHANNEL")] = None,
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Publish a message durably, and print its event's id.

    An object with `specversion` is a CloudEvent, whose type must be CHANNEL; other JSON is an event's data; any
    other text is its data as a JSON string, without the blanks around it. What begins with `{`, `[` or `"` must
    be JSON.

    `milepost publish raw_input '{"email":"a@b.co","lat":40.7,"long":-74}'` is one;
    `milepost publish user:email - < addresses` is one for each line.
    """
    settings = reach.redis_settings(redis_url, data)
    naming = publish.Naming(channel, event_id, source)
    if message == "-":
        _run(publish.lines(settings, naming, sys.stdin.buffer))
    _run(publish.one(settings, naming, os.fsencode(message)))


# Unknown options are taken for arguments, since a latitude may begin with a minus.
@app.command("send", epilog=EXIT_CODES, context_settings={"ignore_unknown_options": True})
def send_command(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Where the answer goes.")],
    lat: Annotated[str, typer.Argument(metavar="LAT", help="Degrees north.")],
    long: Annotated[str, typer.Argument(metavar="LONG", help="Degrees east.")],
    *,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", parser=options.at_least(0), help="How long to wait for the message.")
    ] = 60,
    gateway: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The gateway.", show_default=f"the one in DIR/stack.json, else {reach.GATEWAY}"
        ),
    ] = None,
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Submit a place, show each channel as it is reached, and print the message.

    `milepost send ada@example.org 51.5074 -0.1278` ends with the message, or with 4 if a stage gave the event up.
    """
    submission = {"email": email, "lat": lat, "long": long}
    _run(send.send(reach.redis_settings(redis_url, data), reach.gateway_url(gateway, data), submission, timeout))


@app.command("watch", epilog=EXIT_CODES)
def watch_command(
    channels: Annotated[
        list[str] | None,
        typer.Argument(metavar="CHANNEL", help="Channels.", show_default="all of the stages table"),
    ] = None,
    *,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Show what is published, one line a message, until Ctrl-C. Outlasts a restart of Redis.

    A line has the time, the channel (each in a colour of its own on a terminal, unless NO_COLOR is set), the event's
    id and its data, nothing masked. `milepost watch email:sent --json | jq .message.data` shows one channel's data.
    With `--json` a line is an object: `channel`, `at`, and `message`, the CloudEvent.
    """
    _run(watch.watch(reach.redis_settings(redis_url, data), channels or [], as_json=as_json))


@stages_app.callback(invoke_without_command=True, epilog=EXIT_CODES)
def stages_command(
    context: typer.Context, *, as_json: AsJson = False, redis_url: RedisUrl = None, data: Data = data_folder.DEFAULT
) -> None:
    """Show the stages that bridges serve or served, and what waits for each.

    SCALE: processes of `milepost up`, or pods, where kubectl is there to tell; `-`: unknown. BACKLOG: events that are
    journaled and not settled; PARKED: those that wait for another attempt; DEAD: dead letters. SERVED: whether a
    bridge was there for it within the last minute. `milepost stages --json` is the same for programs.
    """
    if context.invoked_subcommand is None:
        _run(stages.print_stages(reach.redis_settings(redis_url, data), data, as_json=as_json))


@stages_app.command("forget", epilog=EXIT_CODES)
def stages_forget(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The stage's name.")],
    *,
    yes: Yes = False,
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Remove a stage that no bridge serves any more, with its parked and dead events.

    The name may be that of a channel instead, whose journal no stage consumes. `milepost stages forget geocode` shows
    what would go, and asks.
    """
    _run(stages.forget(reach.redis_settings(redis_url, data), name, sure=yes))


@dead_app.command("list", epilog=EXIT_CODES)
def dead_list(
    stage: Annotated[
        str | None, typer.Argument(metavar="STAGE", help="A stage's name.", show_default="all stages")
    ] = None,
    *,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """List dead letters, oldest first, e-mail addresses masked. TRIES: failed attempts + crashes.

    `milepost dead list email` lists those of one stage; with `--json` a line is an object.
    """
    _run(dead.list_letters(reach.redis_settings(redis_url, data), stage, as_json=as_json))


@dead_app.command("show", epilog=EXIT_CODES)
def dead_show(
    stage: StageName,
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="The entry, as listed.")],
    *,
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Print one dead letter whole, its event and nothing masked, as JSON.

    `milepost dead show email 1763690000000-0` takes the entry from the list.
    """
    _run(dead.show_letter(reach.redis_settings(redis_url, data), stage, entry))


@dead_app.command("replay", epilog=EXIT_CODES)
def dead_replay(
    stage: StageName,
    entries: Entries = None,
    *,
    event_id: EventId = None,
    everything: All = False,
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Give dead letters to their stage again, as if for the first time.

    `milepost dead replay email --all`; or name entries, or `--id` and an event's id.
    """
    _run(dead.replay(reach.redis_settings(redis_url, data), stage, dead.Choice(entries or [], event_id, everything)))


@dead_app.command("drop", epilog=EXIT_CODES)
def dead_drop(
    stage: StageName,
    entries: Entries = None,
    *,
    event_id: EventId = None,
    everything: All = False,
    yes: Yes = False,
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Delete dead letters for good.

    `milepost dead drop email 1763690000000-0`; `--all` asks first.
    """
    choice = dead.Choice(entries or [], event_id, everything)
    _run(dead.drop(reach.redis_settings(redis_url, data), stage, choice, sure=yes))


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


def _run(command: Coroutine[Any, Any, Exit]) -> None:
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(_Unwaited())
        raise typer.Exit(runner.run(command))


class _Unwaited(ThreadPoolExecutor):
    """Threads that the end of the loop does not wait for: one may look up a name for a minute, or read stdin."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        super().shutdown(wait=False, cancel_futures=True)
