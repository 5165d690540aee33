"""`milepost dead`: what no retry could help, looked at, replayed or dropped."""

import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from milepost.cli import locate
from milepost.cli.exits import EXIT_CODES, Exit, Failed
from milepost.cli.local import data_folder
from milepost.cli.loop import run
from milepost.cli.options import All, AsJson, Data, Entries, EventId, RedisUrl, StageName, Yes
from milepost.cli.text import agreed, plain, say, show, table
from milepost.errors import ConfigurationError
from milepost.events.strict_json import loads
from milepost.journal import DeadLetter, Journal
from milepost.log import masked
from milepost.settings import JournalSettings

PAGE = 100
LONGEST_REASON = 100
_ENTRY = re.compile(r"\d{1,20}-\d{1,20}")


@dataclass(frozen=True)
class Choice:
    """Which dead letters of a stage are meant: these entries, all of one id, or all."""

    entries: Sequence[str] = ()
    id: str | None = None
    all: bool = False

    def check(self) -> None:
        """Raises ConfigurationError unless exactly one way of choosing is used, and soundly."""
        if sum(map(bool, (self.entries, self.id, self.all))) != 1:
            raise ConfigurationError("name entries, or give --id ID, or --all: one of the three")
        for entry in self.entries:
            _check_entry(entry)


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
    run(_list(locate.redis_settings(redis_url, data), stage, as_json=as_json))


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
    run(_show(locate.redis_settings(redis_url, data), stage, entry))


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
    run(_replay(locate.redis_settings(redis_url, data), stage, Choice(entries or [], event_id, everything)))


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
    choice = Choice(entries or [], event_id, everything)
    run(_drop(locate.redis_settings(redis_url, data), stage, choice, sure=yes))


async def _list(settings: JournalSettings, stage: str | None, *, as_json: bool) -> Exit:
    """Print one line a dead letter, oldest first, addresses masked."""
    made = table("STAGE", "ENTRY", "BURIED", "CHANNEL", "ID", "STATUS", "TRIES", "REASON")
    async with locate.journal(settings) as journal:
        if stage:
            await _check_stage(journal, stage)
        for name in [stage] if stage else await journal.dead_stages():
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


async def _show(settings: JournalSettings, stage: str, entry: str) -> Exit:
    """Print one dead letter whole, as JSON. Raises Failed if there is none."""
    _check_entry(entry)
    async with locate.journal(settings) as journal:
        found = await journal.dead_letters(stage, start=entry, count=1)
    if not found or found[0].entry != entry:
        raise Failed(f"stage {stage} has no dead letter {entry}; `milepost dead list {stage}` shows which there are")
    letter = found[0]
    print(json.dumps({**_summary(letter), "reason": letter.reason, "event": _event(letter.event)}, indent=2))
    return Exit.DONE


async def _replay(settings: JournalSettings, stage: str, choice: Choice) -> Exit:
    """Put dead letters back into their journals, for this stage alone."""
    choice.check()
    async with locate.journal(settings) as journal:
        await _check_stage(journal, stage)
        return await _settle(journal, stage, choice, journal.replay, "replayed")


async def _drop(settings: JournalSettings, stage: str, choice: Choice, *, sure: bool) -> Exit:
    """Delete dead letters for good; all of them only after asking."""
    choice.check()
    async with locate.journal(settings) as journal:
        await _check_stage(journal, stage)
        if choice.all and not sure:
            count = await _count(journal, stage)
            if not agreed(f"Delete the {count} dead letters of {stage}?"):
                return Exit.FAILED
        return await _settle(journal, stage, choice, journal.drop, "dropped")


async def _settle(
    journal: Journal,
    stage: str,
    choice: Choice,
    settle: Callable[[str, list[str]], Awaitable[int]],
    done: str,
) -> Exit:
    asked = settled = 0
    # Those there are now, and no more: one that is replayed may come back at once.
    total = len(choice.entries) or await _count(journal, stage)
    with Progress(
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        disable=not (choice.all and sys.stderr.isatty()),
    ) as bar:
        task = bar.add_task(done, total=total)
        async for entries in _chosen(journal, stage, choice, total):
            asked += len(entries)
            try:
                settled += await settle(stage, entries)
            except ValueError as fault:
                raise Failed(str(fault)) from None
            bar.update(task, completed=min(asked, total))
    print(f"{settled} {done}" + (f", {asked - settled} no longer there" if asked > settled else ""))
    return Exit.DONE if settled or choice.all else Exit.FAILED


async def _chosen(journal: Journal, stage: str, choice: Choice, total: int) -> AsyncIterator[list[str]]:
    if choice.entries:
        yield list(choice.entries)
        return
    page: list[str] = []
    looked_at = 0
    async for letter in _letters(journal, stage):
        looked_at += 1
        if looked_at > total:
            break
        if choice.all or letter.id == choice.id:
            page.append(letter.entry)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


async def _letters(journal: Journal, stage: str) -> AsyncIterator[DeadLetter]:
    start = "-"
    while page := await journal.dead_letters(stage, start=start, count=PAGE):
        for letter in page:
            yield letter
        start = f"({page[-1].entry}"


async def _count(journal: Journal, stage: str) -> int:
    """How many there are. A stage the table does not know may have some all the same."""
    for known in await journal.stages():
        if known.name == stage:
            return known.dead
    return len([letter async for letter in _letters(journal, stage)])


async def _check_stage(journal: Journal, stage: str) -> None:
    if stage not in {"bridge", *await journal.dead_stages(), *(known.name for known in await journal.stages())}:
        raise Failed(f"no stage is called {stage}, and none of that name has dead letters; see `milepost stages`")


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
    """The event as JSON, or what could not be read as text."""
    try:
        return loads(text)
    except ValueError:
        return text.decode(errors="backslashreplace")
