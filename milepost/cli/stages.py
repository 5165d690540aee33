"""`milepost stages`: which stages there are, and how many events wait for each."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from milepost.cli import scale
from milepost.cli.exits import EXIT_CODES, CommandFailed, Exit
from milepost.cli.local import data_folder
from milepost.cli.loop import run_on_journal
from milepost.cli.options import AsJson, Data, RedisUrl, Yes
from milepost.cli.text import agreed, plain, say, show, table
from milepost.journal import Journal

Name = Annotated[str, typer.Argument(metavar="NAME", help="The stage's name.")]

app = typer.Typer(help="Show the stages that bridges serve or served, and how many events wait for each.")


@app.callback(invoke_without_command=True, epilog=EXIT_CODES)
def stages(
    context: typer.Context, *, as_json: AsJson = False, redis_url: RedisUrl = None, data: Data = data_folder.DEFAULT
) -> None:
    """Show the stages that bridges serve or served, and how many events wait for each.

    SCALE: processes of `milepost up`, or pods if there is kubectl; `-`: unknown. JOURNALED: events in journals that
    it has not settled; PARKED: events that wait for the next try or for their time; DEAD: dead letters. SERVED:
    whether a bridge served it within the last minute. Where a stage is ordered by key, ORDER is the field with the
    key; HELD: those of JOURNALED that wait until an earlier event of their key is finished. `milepost stages --json`
    is the same for programs.
    """
    if context.invoked_subcommand is None:
        run_on_journal(redis_url, data, lambda journal: _print_stages(journal, data, as_json=as_json))


@app.command("pause", epilog=EXIT_CODES)
def pause(name: Name, *, redis_url: RedisUrl = None, data: Data = data_folder.DEFAULT) -> None:
    """Deliver nothing to a stage until it is resumed, also after restarts. Its events wait; other stages go on.

    `milepost stages pause email` takes effect within a second. Requests under way are not cut off.
    """

    async def work(journal: Journal) -> Exit:
        try:
            new = await journal.admin.pause(name)
        except LookupError:
            raise CommandFailed(f"no stage is called {name}; see `milepost stages`") from None
        print(f"{name} is paused" if new else f"{name} was paused already")
        return Exit.DONE

    run_on_journal(redis_url, data, work)


@app.command("resume", epilog=EXIT_CODES)
def resume(name: Name, *, redis_url: RedisUrl = None, data: Data = data_folder.DEFAULT) -> None:
    """Deliver to a paused stage again.

    `milepost stages resume email`: the events that wait are delivered now.
    """

    async def work(journal: Journal) -> Exit:
        if not await journal.admin.resume(name):
            raise CommandFailed(f"{name} is not paused")
        print(f"{name} is resumed")
        return Exit.DONE

    run_on_journal(redis_url, data, work)


@app.command("forget", epilog=EXIT_CODES)
def forget(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A stage, a channel, or stage:channel.")],
    *,
    yes: Yes = False,
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Remove a stage that no bridge serves any more, with its parked and dead events.

    NAME may also be a channel whose journal no stage consumes, or `stage:channel`: the table shows such a name where a
    stage that now consumes another channel has left events. `milepost stages forget geocode` shows how many events
    would be deleted, and asks.
    """
    run_on_journal(redis_url, data, lambda journal: _forget(journal, name, sure=yes))


async def _print_stages(journal: Journal, data: Path, *, as_json: bool) -> Exit:
    """Print the table. `data`: the data folder of a `milepost up`, whose processes are counted."""
    stages = await journal.admin.stages()
    unconsumed = await journal.admin.unconsumed()
    scales = await scale.scales(stages, data)
    for channel, events in unconsumed.items():
        name = plain(channel)
        say(f"{events} events in the journal of {name}, which no stage consumes; milepost stages forget {name}")
    if as_json:
        print(
            json.dumps([{**dataclasses.asdict(stage), "scale": scales.get(stage.name)} for stage in stages], indent=2)
        )
        return Exit.DONE
    if not stages:
        say("no bridge has named any stage yet")
        return Exit.DONE
    ordered = any(stage.order or stage.held for stage in stages)
    columns = ("NAME", "CONSUMES", "EMITS", *(["ORDER"] if ordered else []), "URL", "SERVED")
    made = table(*columns, numbers=("SCALE", "JOURNALED", *(["HELD"] if ordered else []), "PARKED", "DEAD"))
    for stage in stages:
        made.add_row(
            plain(stage.name),
            plain(", ".join(stage.consumes)),
            plain(", ".join(stage.emits)) or "-",
            *([plain(stage.ordered_by) or "-"] if ordered else []),
            plain(stage.url or "-"),
            "paused" if stage.paused else "yes" if stage.served else "no",
            str(scales.get(stage.name, "-")),
            str(stage.journaled),
            *([str(stage.held)] if ordered else []),
            str(stage.parked),
            str(stage.dead),
        )
    show(made)
    return Exit.DONE


async def _forget(journal: Journal, name: str, *, sure: bool) -> Exit:
    """Remove a stage that no bridge serves, with its parked and dead events. Raises StageServed, CommandFailed."""
    found = next((stage for stage in await journal.admin.stages() if stage.name == name), None)
    if found is None:
        unconsumed = await journal.admin.unconsumed()
        if name in unconsumed:
            return await _forget_journal(journal, name, unconsumed[name], sure=sure)
        raise CommandFailed(f"no stage is called {name}; `milepost stages` shows which there are")
    say(f"{name}: {found.journaled} journaled, {found.parked} parked and {found.dead} dead events of it would be gone")
    if not (sure or found.served or agreed("Forget it?")):
        return Exit.FAILED
    gone = await journal.admin.forget(name)
    print(f"{name} is forgotten, with {gone.parked} parked and {gone.dead} dead events")
    return Exit.DONE


async def _forget_journal(journal: Journal, channel: str, events: int, *, sure: bool) -> Exit:
    say(f"{channel}: {events} events in a journal that no stage consumes would be gone")
    if not (sure or agreed("Forget it?")):
        return Exit.FAILED
    print(f"the journal of {channel} is forgotten, with {await journal.admin.forget_journal(channel)} events")
    return Exit.DONE
