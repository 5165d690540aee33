"""How the tests of /ops come in, and the dead letters they find there."""

import base64

from milepost.events.event import Event
from milepost.journal import Bury, Group, Journal, Letter, Upkeep, Wiring
from milepost.settings import JournalSettings
from tests.gateway.samples import LONDON

TOKEN = "correct-horse-battery-staple"
PAGE = {"accept": "text/html"}
BEARER = {"authorization": f"Bearer {TOKEN}"}
BASIC = {"authorization": f"Basic {base64.b64encode(f'anyone:{TOKEN}'.encode()).decode()}"}
ROUTES = {"distance": Wiring(["raw_input"], ["calculated_distance"], "http://d")}


async def buried(journal: Journal, count: int = 1, reason: str = "HTTP 422: lat: too large") -> list[str]:
    """The entries of so many dead letters of `distance`, which is served."""
    await Upkeep(journal.scripts, journal.keeping).beat(ROUTES)
    group = Group(
        "raw_input",
        "distance",
        "test",
        reader=journal.scripts.line,
        scripts=journal.scripts,
        keeping=journal.keeping,
        deadline=JournalSettings().deadline,
    )
    await group.ensure()
    for number in range(count):
        await journal.publish(Event(id=f"dead-{number}", source="/tests", type="raw_input", data=LONDON))
    for entry in await group.read(count, block=1) or []:
        event_id = Event.from_json(entry.event).id
        await group.settle(Bury(entry, Letter(event_id, reason, 422, 1, 0)))
    return [letter.entry for letter in await journal.dead_letters("distance", count=count)]
