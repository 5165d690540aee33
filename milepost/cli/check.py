"""`milepost check`: whether this checkout can take over from the running pipeline."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from milepost import stage_values
from milepost.check import document, findings
from milepost.cli import locate, payload_classes
from milepost.cli.exits import Exit, Unreachable
from milepost.cli.local import data_folder
from milepost.cli.loop import run_on_journal
from milepost.cli.options import AsJson, Data, ProjectFolder, RedisUrl
from milepost.cli.text import plain, say
from milepost.journal import Journal

Gateway = Annotated[
    str | None,
    typer.Option("--gateway", help="The running gateway's URL.", show_default="the one in DIR/stack.json"),
]
Accept = Annotated[list[str] | None, typer.Option("--accept", metavar="NAME", help="A stage or channel that may go.")]


def check(
    *,
    gateway: Gateway = None,
    accept: Accept = None,
    as_json: AsJson = False,
    project: ProjectFolder = Path(),
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Check, before a rollout, that this project can take over the events of a running pipeline.

    It reads every journaled, parked and dead event, changing nothing, and validates it with this project's payload
    classes and the stages in `helm/values.yaml`: events that a stage would refuse, by stage and field; channels that no
    stage would consume; stages that would be gone while events wait for them. Payload classes are compared with the
    running gateway's AsyncAPI too, where there is a gateway. Exit code 1 if anything would break.

    `milepost check --redis-url redis://… --gateway https://…` checks against another machine's; `--accept geocode`
    says that this stage, or channel, may go.
    """
    folder = project.resolve()
    stages = stage_values.read(folder)
    payloads = payload_classes.read(folder).by_channel

    async def work(journal: Journal) -> Exit:
        found = await findings.check(
            journal.redis,
            await journal.admin.stages(),
            payloads,
            stages,
            document=await _document(gateway or locate.running_gateway(data)),
            accept=accept or (),
        )
        if as_json:
            print(json.dumps(found.as_json(), indent=2))
            return Exit.FAILED if found.breaks else Exit.DONE
        for line in found.lines():
            print(plain(line))
        compared = "" if found.schemas is not None else "; payload classes not compared: name a --gateway"
        again = f"; {found.again} dead letters would be refused again" if found.again else ""
        say(f"{found.events} events read, {'something' if found.breaks else 'nothing'} would break{again}{compared}")
        return Exit.FAILED if found.breaks else Exit.DONE

    run_on_journal(redis_url, data, work)


async def _document(gateway: str | None) -> dict[str, Any] | None:
    """The running pipeline's AsyncAPI document. None if no gateway is known. Raises Unreachable."""
    if gateway is None:
        return None
    try:
        return await document.fetch(gateway.rstrip("/"))
    except document.NoDocument as fault:
        raise Unreachable(str(fault)) from None
