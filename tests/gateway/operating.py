"""How the tests of /ops come in, and the dead letters they find there."""

import base64
from collections.abc import Mapping

from milepost.events.event import Event
from milepost.journal import Bury, Consumer, Failure, Journal, Maintenance, Wiring
from milepost.settings import JournalSettings
from tests.gateway.samples import LONDON

TOKEN = "correct-horse-battery-staple"
PAGE = {"accept": "text/html"}
BEARER = {"authorization": f"Bearer {TOKEN}"}
BASIC = {"authorization": f"Basic {base64.b64encode(f'anyone:{TOKEN}'.encode()).decode()}"}
ROUTES = {"distance": Wiring(["raw_input"], ["calculated_distance"], "http://d")}


async def serve(journal: Journal, routes: Mapping[str, Wiring]) -> None:
    """Show these routes in the stages table, as a bridge does."""
    settings = JournalSettings()
    await Maintenance(journal.scripts, dedup=settings.dedup, limit=settings.backlog_limit).beat(routes)


async def buried(journal: Journal, count: int = 1, reason: str = "HTTP 422: lat: too large") -> list[str]:
    """The entries of so many dead letters of `distance`, which is served."""
    await serve(journal, ROUTES)
    consumer = Consumer(
        "distance",
        "raw_input",
        "test",
        reader=journal.scripts.connection,
        scripts=journal.scripts,
        deadline=JournalSettings().deadline,
    )
    await consumer.ensure()
    for number in range(count):
        await journal.publish(Event(id=f"dead-{number}", source="/tests", type="raw_input", data=LONDON))
    entries = await consumer.take(count)
    failure = Failure(reason, 422, 1, 0)
    await consumer.settle([Bury(entry, Event.from_json(entry.event).id, failure) for entry in entries])
    return [letter.entry for letter in await journal.admin.dead_letters("distance", count=count)]
