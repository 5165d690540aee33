"""`milepost dead`: look at dead letters; try, test, replay or drop them."""

import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from milepost import stage_values
from milepost.cli import dead_test, payload_classes
from milepost.cli.exits import EXIT_CODES, CommandFailed, Exit
from milepost.cli.local import data_folder
from milepost.cli.local.layout import source_of
from milepost.cli.loop import run_on_journal
from milepost.cli.options import (
    All,
    AsJson,
    Data,
    Entries,
    Entry,
    EventId,
    ProjectFolder,
    RedisUrl,
    StageName,
    StageOrBridge,
    Yes,
)
from milepost.cli.text import agreed, plain, say, show, table
from milepost.errors import ConfigurationError, EventError
from milepost.events.event import Event
from milepost.events.strict_json import loads, loads_or_text
from milepost.function.calling import Problem, answers, load
from milepost.function.stage import StageHandler
from milepost.journal import DeadLetter, Journal, StageNotServed
from milepost.journal.models import entries_by_channel, is_entry
from milepost.observe.logs import masked
from milepost.stage_values import StageEntry

PAGE = 100
LONGEST_REASON = 100

app = typer.Typer(help="Look at dead letters; try, test, replay or drop them.", epilog=EXIT_CODES, no_args_is_help=True)


@app.command("list", epilog=EXIT_CODES)
def list_letters(
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

    async def work(journal: Journal) -> Exit:
        made = table("STAGE", "ENTRY", "BURIED", "CHANNEL", "ID", "STATUS", "TRIES", "REASON")
        if stage:
            await _check_stage(journal, stage)
        for name in [stage] if stage else await journal.admin.dead_stages():
            async for letter in _letters(journal, name):
                if as_json:
                    print(json.dumps(_summary(letter)))
                else:
                    made.add_row(*_row(letter))
        if made.row_count:
            show(made)
        elif not as_json:
            say("no dead letters")
        return Exit.DONE

    run_on_journal(redis_url, data, work)


@app.command("show", epilog=EXIT_CODES)
def show_letter(
    stage: StageOrBridge,
    entry: Entry,
    *,
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Print one dead letter whole, its event and nothing masked, as JSON.

    `milepost dead show email 1763690000000-0` takes the entry from the list.
    """
    _check_entry(entry)

    async def work(journal: Journal) -> Exit:
        letter = await _letter(journal, stage, entry)
        print(json.dumps({**_summary(letter), "reason": letter.reason, "event": loads_or_text(letter.event)}, indent=2))
        return Exit.DONE

    run_on_journal(redis_url, data, work)


@app.command("try", epilog=EXIT_CODES)
def try_letter(
    stage: StageName,
    entry: Entry,
    *,
    project: ProjectFolder = Path(),
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Run one dead letter's event against this project's code, and print the next event. Nothing is replayed.

    The function runs in this process, with this shell's settings: it writes to the database and sends the mails that
    these name.

    `milepost dead try geocode 1763690000000-0` ends with 1 if the stage still refuses the event.
    """
    _check_entry(entry)

    async def work(journal: Journal) -> Exit:
        _, event = await _event_of(journal, stage, entry)
        try:
            replies = await answers(_code(project.resolve(), stage), event)
        except Problem as refusal:
            raise CommandFailed(f"{stage} refuses it: {refusal}") from None
        if not replies:
            say(f"{stage} takes it, and emits nothing")
        for reply in replies:
            print(json.dumps(loads(reply.to_json()), indent=2))
        return Exit.DONE

    run_on_journal(redis_url, data, work)


@app.command("test", epilog=EXIT_CODES)
def write_test(
    stage: StageName,
    entry: Entry,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Keep e-mail addresses as they are.")] = False,
    project: ProjectFolder = Path(),
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Write a test of one dead letter, which fails until the stage takes its event. E-mail addresses are masked.

    If an address is what the stage refuses, nothing is written without --keep.

    `milepost dead test geocode 1763690000000-0` writes it under tests/dead/.
    """
    _check_entry(entry)
    folder = project.resolve()

    async def work(journal: Journal) -> Exit:
        letter, event = await _event_of(journal, stage, entry)
        here = _stage_here(folder, stage)
        payload = None if keep else payload_classes.read(folder).by_channel.get(letter.channel)
        if payload and dead_test.is_masking_seen(payload, event.data):
            raise CommandFailed("an address is at fault, and it would be masked; give --keep")
        path = Path("tests", "dead", f"test_{stage}_{entry}.py".replace("-", "_"))
        if (folder / path).exists():
            raise CommandFailed(f"{path} is there already")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(dead_test.text(letter, event, here.emits, split=here.split, keep=keep))
        print(f"wrote    {path}")
        return Exit.DONE

    run_on_journal(redis_url, data, work)


@app.command("replay", epilog=EXIT_CODES)
def replay_letters(
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
    _replay_or_drop("replay", stage, entries, event_id, everything=everything, redis_url=redis_url, data=data)


@app.command("drop", epilog=EXIT_CODES)
def drop_letters(
    stage: StageOrBridge,
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
    ask = everything and not yes
    _replay_or_drop("drop", stage, entries, event_id, everything=everything, ask=ask, redis_url=redis_url, data=data)


def _replay_or_drop(
    action: Literal["replay", "drop"],
    stage: str,
    entries: list[str] | None,
    event_id: str | None,
    *,
    everything: bool,
    ask: bool = False,
    redis_url: str | None,
    data: Path,
) -> NoReturn:
    """Replay or drop dead letters of a stage, and print how many: these entries, those of one event, or all.

    Raises ConfigurationError unless they are chosen in exactly one of these ways.
    """
    if sum(map(bool, (entries, event_id, everything))) != 1:
        raise ConfigurationError("name entries, or give --id ID, or --all: one of the three")
    for entry in entries or ():
        _check_entry(entry)

    async def work(journal: Journal) -> Exit:
        await _check_stage(journal, stage)
        found = [replace(letter, event=b"") async for letter in _letters(journal, stage)] if not entries else []
        groups = [entries] if entries else entries_by_channel(one for one in found if event_id in {None, one.id})
        chosen = sum(map(len, groups))
        if ask and chosen and not agreed(f"Delete the {chosen} dead letters of {stage}?"):
            return Exit.FAILED
        act, done = {
            "replay": (journal.admin.replay, "replayed"),
            "drop": (journal.admin.drop, "dropped"),
        }[action]
        settled = left = 0
        for group in groups:  # one channel of which no bridge is there must not hold back the others
            for begin in range(0, len(group), PAGE):
                try:
                    settled += await act(stage, group[begin : begin + PAGE])
                except ValueError as fault:
                    raise CommandFailed(str(fault)) from None
                except StageNotServed as fault:
                    if len(groups) == 1:
                        raise
                    say(str(fault))
                    left += len(group) - begin
                    break
        gone = chosen - settled - left
        print(f"{settled} {done}" + (f", {left} left" if left else "") + (f", {gone} no longer there" if gone else ""))
        return Exit.DONE if (settled or everything) and not left else Exit.FAILED

    run_on_journal(redis_url, data, work)


async def _letter(journal: Journal, stage: str, entry: str) -> DeadLetter:
    found = await journal.admin.dead_letters(stage, start=entry, count=1)
    if not found or found[0].entry != entry:
        raise CommandFailed(
            f"stage {stage} has no dead letter {entry}; `milepost dead list {stage}` shows which there are"
        )
    return found[0]


async def _event_of(journal: Journal, stage: str, entry: str) -> tuple[DeadLetter, Event]:
    letter = await _letter(journal, stage, entry)
    try:
        return letter, Event.from_json(letter.event)
    except EventError as fault:
        raise CommandFailed(
            f"the dead letter {entry} of {stage} is no event that a stage could take: {fault}"
        ) from None


def _stage_here(project: Path, name: str) -> StageEntry:
    """The stage in the project's values. Raises CommandFailed if there is none, or its code is someone else's."""
    for stage in stage_values.read(project):
        if stage.name == name and not stage.external:
            return stage
        if stage.name == name:
            raise CommandFailed(f"{name} is a receiver at a url: its code is not in this project")
    raise CommandFailed(f"{project / stage_values.VALUES} has no stage {name}")


def _code(project: Path, stage: str) -> StageHandler:
    """Load the stage's function. Raises ConfigurationError with the fault of its file."""
    _stage_here(project, stage)
    sys.path.insert(0, str(project))  # for its imports
    path = source_of(project, stage)
    try:
        return load(path)
    except Exception as fault:  # noqa: BLE001 - the project's code may raise anything
        raise ConfigurationError(f"{path}: {type(fault).__name__}: {fault}") from None


async def _letters(journal: Journal, stage: str) -> AsyncIterator[DeadLetter]:
    start = "-"
    while page := await journal.admin.dead_letters(stage, start=start, count=PAGE):
        for letter in page:
            yield letter
        start = f"({page[-1].entry}"


async def _check_stage(journal: Journal, stage: str) -> None:
    if stage not in {
        "bridge",
        *await journal.admin.dead_stages(),
        *(known.name for known in await journal.admin.stages()),
    }:
        raise CommandFailed(
            f"no stage is called {stage}, and none of that name has dead letters; see `milepost stages`"
        )


def _check_entry(entry: str) -> None:
    if not is_entry(entry):
        raise ConfigurationError(f"{entry}: an entry looks like 1763690000000-0; see `milepost dead list`")


def _summary(letter: DeadLetter) -> dict[str, Any]:
    return {
        "stage": letter.stage,
        "entry": letter.entry,
        "at": letter.at.isoformat(timespec="milliseconds"),
        "channel": letter.channel,
        "id": letter.id,
        "status": letter.status,
        "attempts": letter.attempts,
        "crashes": letter.crashes,
        "reason": masked(letter.reason),
    }


def _row(letter: DeadLetter) -> list[str]:
    reason = masked(letter.reason)
    return [
        plain(letter.stage),
        letter.entry,
        letter.at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        plain(letter.channel),
        plain(letter.id or "-"),
        str(letter.status or "-"),
        f"{letter.attempts}+{letter.crashes}",
        plain(reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}…"),
    ]
