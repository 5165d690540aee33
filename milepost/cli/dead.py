"""`milepost dead`: look at dead letters; replay or drop them."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from milepost.cli.exits import EXIT_CODES, CommandFailed, Exit
from milepost.cli.local import data_folder
from milepost.cli.loop import run_on_journal
from milepost.cli.options import All, AsJson, Data, Entries, EventId, RedisUrl, StageName, Yes
from milepost.cli.text import agreed, plain, say, show, table
from milepost.errors import ConfigurationError
from milepost.events.strict_json import loads
from milepost.journal import DeadLetter, Journal
from milepost.observe.logs import masked

PAGE = 100
LONGEST_REASON = 100
_ENTRY = re.compile(r"\d{1,20}-\d{1,20}")

app = typer.Typer(help="Look at dead letters; replay or drop them.", epilog=EXIT_CODES, no_args_is_help=True)


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
    stage: StageName,
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="The entry, as listed.")],
    *,
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Print one dead letter whole, its event and nothing masked, as JSON.

    `milepost dead show email 1763690000000-0` takes the entry from the list.
    """
    _check_entry(entry)

    async def work(journal: Journal) -> Exit:
        found = await journal.admin.dead_letters(stage, start=entry, count=1)
        if not found or found[0].entry != entry:
            raise CommandFailed(
                f"stage {stage} has no dead letter {entry}; `milepost dead list {stage}` shows which there are"
            )
        letter = found[0]
        print(json.dumps({**_summary(letter), "reason": letter.reason, "event": _event(letter.event)}, indent=2))
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
    _settle("replay", stage, entries, event_id, everything=everything, redis_url=redis_url, data=data)


@app.command("drop", epilog=EXIT_CODES)
def drop_letters(
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
    ask = everything and not yes
    _settle("drop", stage, entries, event_id, everything=everything, ask=ask, redis_url=redis_url, data=data)


def _settle(
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
        chosen = entries or [letter.entry async for letter in _letters(journal, stage) if event_id in {None, letter.id}]
        if ask and chosen and not agreed(f"Delete the {len(chosen)} dead letters of {stage}?"):
            return Exit.FAILED
        settle, done = {
            "replay": (journal.admin.replay, "replayed"),
            "drop": (journal.admin.drop, "dropped"),
        }[action]
        settled = 0
        for begin in range(0, len(chosen), PAGE):
            try:
                settled += await settle(stage, chosen[begin : begin + PAGE])
            except ValueError as fault:
                raise CommandFailed(str(fault)) from None
        gone = len(chosen) - settled
        print(f"{settled} {done}" + (f", {gone} no longer there" if gone else ""))
        return Exit.DONE if settled or everything else Exit.FAILED

    run_on_journal(redis_url, data, work)


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
    if not _ENTRY.fullmatch(entry):
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


def _event(text: bytes) -> Any:
    """Parse the event, or return it as text if it is not JSON."""
    try:
        return loads(text)
    except ValueError:
        return text.decode(errors="backslashreplace")
