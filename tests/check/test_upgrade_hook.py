"""`python -m milepost.check`: the check that the chart runs before an upgrade, as a process."""

import json
import subprocess
import sys

from redis.asyncio import Redis

from milepost.events.event import Event
from milepost.journal import Journal, Wiring
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.cli.running import environment
from tests.journal.events import maintenance_of
from tests.servers import ROOT

STAGES = json.dumps([{"name": "distance", "consumes": "raw_input", "emits": "calculated_distance"}])


def run(**settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "milepost.check"],
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
    )


async def test_hook_ends_with_1_where_an_event_would_be_refused(redis: Redis, redis_url: str) -> None:
    del redis  # which has emptied the server
    settings = JournalSettings.read(redis_url=redis_url)
    journal = Journal(connect(settings), settings)
    await maintenance_of(journal, settings).beat({"distance": Wiring(["raw_input"], [], "http://d")})
    await journal.publish(Event(id="1", source="/tests", type="raw_input", data={"lat": 1, "long": 2}))
    assert await journal.scripts.ensure(stage="distance", broker="broker", channel="raw_input")
    refused = run(REDIS_URL=redis_url, STAGES=STAGES)
    assert (refused.returncode, "distance would refuse 1 events: email" in refused.stdout) == (1, True), refused.stderr
    await journal.redis.flushall()
    done = run(REDIS_URL=redis_url, STAGES=STAGES)
    assert (done.returncode, done.stdout) == (0, "0 events read: nothing breaks\n")
    await journal.close()


def test_hook_ends_with_2_for_a_wrong_setting_and_3_while_redis_is_away() -> None:
    assert run(REDIS_URL="redis://127.0.0.1:1", STAGES="no JSON").returncode == 2
    away = run(REDIS_URL="redis://127.0.0.1:1", STAGES=STAGES)
    assert (away.returncode, "Traceback" in away.stderr) == (3, False)
