"""The machine of Redis or MongoDB loses its power: bytes that were written and not synced are gone."""

import asyncio
from functools import partial

from tests.faults.power import Place, at_a_random_byte_after_it, at_the_last_synced_byte
from tests.faults.registry import EVERY_REDIS, fault
from tests.faults.rows.processes import AWAY, MAY_LOSE
from tests.faults.run import Run
from tests.servers import Redis

CUTS = 3
"""How often the power fails in a row."""


async def power_cut(run: Run, *, component: str, place: Place) -> None:
    stack = run.stack
    server = stack.component(component)
    lost = []
    for _ in range(CUTS):
        await stack.cut_power(server)
        lost.append(stack.power.lose(place))
        await asyncio.sleep(AWAY / 2)
        await stack.up(server)
        await asyncio.sleep(1)  # so that the next cut has something to lose
    run.notes.append(f"bytes lost: {', '.join(map(str, lost))}")
    run.check(max(lost), "no cut lost a byte: the row shows nothing")


PLACES = {"at the last synced byte": at_the_last_synced_byte, "at a random byte after it": at_a_random_byte_after_it}

for _where, _place in PLACES.items():
    for _fsync in ("always", "everysec"):
        for _kind, _server in EVERY_REDIS.items():
            fault(
                f"redis, appendfsync {_fsync}: power cut, its file ends {_where} ({_kind})",
                redis=_server,
                fsync=_fsync,
                power="redis",
                may_lose=MAY_LOSE if _fsync == "everysec" else 0.0,
                only_on_request=_server is Redis,
                twin=True,
            )(partial(power_cut, component="redis", place=_place))
    fault(f"mongo: power cut, its log ends {_where}", power="mongo", resends=True, twin=True)(
        partial(power_cut, component="mongo", place=_place)
    )
