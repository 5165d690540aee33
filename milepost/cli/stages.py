"""`milepost stages`: the bridges' route table, and what lies before each stage."""

import dataclasses
import json
from pathlib import Path

from milepost.cli import reach, scale
from milepost.cli.exits import Exit, Failed
from milepost.cli.text import agreed, plain, say, show, table
from milepost.journal import Journal
from milepost.settings import JournalSettings


async def print_stages(settings: JournalSettings, data: Path, *, as_json: bool) -> Exit:
    """Print the table. `data`: the data folder of a `milepost up`, whose processes are counted."""
    async with reach.journal(settings) as journal:
        stages = await journal.stages()
        unconsumed = await journal.unconsumed()
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
        say("no bridge has told of any stage yet")
        return Exit.DONE
    made = table("NAME", "CONSUMES", "EMITS", "URL", "SERVED", numbers=("SCALE", "BACKLOG", "PARKED", "DEAD"))
    for stage in stages:
        made.add_row(
            plain(stage.name),
            plain(", ".join(stage.consumes)),
            plain(", ".join(stage.emits)) or "-",
            plain(stage.url or "-"),
            "yes" if stage.served else "no",
            str(scales.get(stage.name, "-")),
            str(stage.backlog),
            str(stage.parked),
            str(stage.dead),
        )
    show(made)
    return Exit.DONE


async def forget(settings: JournalSettings, name: str, *, sure: bool) -> Exit:
    """Remove a stage that no bridge serves, with what waits for it. Raises StageServed, Failed."""
    async with reach.journal(settings) as journal:
        found = next((stage for stage in await journal.stages() if stage.name == name), None)
        if found is None:
            unconsumed = await journal.unconsumed()
            if name in unconsumed:
                return await _forget_journal(journal, name, unconsumed[name], sure=sure)
            raise Failed(f"no stage is called {name}; `milepost stages` shows which there are")
        say(f"{name}: {found.parked} parked and {found.dead} dead events, and its place in the journal, would be gone")
        if not (sure or found.served or agreed("Forget it?")):
            return Exit.FAILED
        gone = await journal.forget(name)
    print(f"{name} is forgotten, with {gone.parked} parked and {gone.dead} dead events")
    return Exit.DONE


async def _forget_journal(journal: Journal, channel: str, events: int, *, sure: bool) -> Exit:
    say(f"{channel}: {events} events in a journal that no stage consumes would be gone")
    if not (sure or agreed("Forget it?")):
        return Exit.FAILED
    print(f"the journal of {channel} is forgotten, with {await journal.forget_journal(channel)} events")
    return Exit.DONE
