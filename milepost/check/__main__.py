"""Check the payload classes and stages of this image against the running pipeline, before an upgrade by the chart.

Settings: REDIS_URL; STAGES, the stages of the new values as the gateway has them; GATEWAY, the running gateway's URL,
where there is one; ACCEPT, stages and channels that may go, separated by spaces. Exit codes: 0, 1 if the upgrade
would break something, 2 for a wrong setting, 3 if Redis or the gateway does not answer.
"""

import asyncio
import os
import sys
from importlib import import_module

from pydantic import TypeAdapter, ValidationError

from milepost.check import document
from milepost.check.findings import Findings, check
from milepost.errors import ConfigurationError, JournalUnavailable
from milepost.events import asyncapi
from milepost.graph import WiredStage
from milepost.journal import Journal
from milepost.journal.connection import connect
from milepost.settings import JournalSettings


async def _check(settings: JournalSettings, stages: list[WiredStage]) -> Findings:
    payloads = {found.channel: found for found in asyncapi.payloads_of(import_module("functions.payloads"))}
    gateway = os.environ.get("GATEWAY")
    published = await document.fetch(gateway) if gateway else None
    journal = Journal(connect(settings), settings)
    try:
        running = await journal.admin.stages()
        accept = os.environ.get("ACCEPT", "").split()
        return await check(journal.redis, running, payloads, stages, document=published, accept=accept)
    finally:
        await journal.close()


def main() -> int:
    """Print what would break, and return the exit code."""
    try:
        try:
            stages = TypeAdapter(list[WiredStage]).validate_json(os.environ.get("STAGES", ""))
        except ValidationError as fault:
            raise ConfigurationError(f"STAGES: {fault}") from None
        found = asyncio.run(_check(JournalSettings.read(), stages))
    except ConfigurationError as fault:
        print(fault, file=sys.stderr)
        return 2
    except (JournalUnavailable, document.NoDocument) as fault:
        print(fault, file=sys.stderr)
        return 3
    for line in found.lines():
        print(line)
    print(f"{found.events} events read: {'this upgrade would break the above' if found.breaks else 'nothing breaks'}")
    return int(found.breaks)


if __name__ == "__main__":
    sys.exit(main())
