"""`make model`: the whole search, world by world, with the size of each."""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.model.search import FoundError, search
from tests.model.world import OUT, Bounds, World
from tests.servers import Valkey

LINE: dict[str, str | None] = {"a": OUT}
BRANCHES: dict[str, str | None] = {"a": OUT, "b": None}

WORLDS = {
    "one event, every fault once": (Bounds(), LINE),
    "two events, a crash, a retry, a lost answer": (
        Bounds(events=2, burials=0, duplicates=0, refusals=0, replays=0),
        LINE,
    ),
    "two groups, a crash, a retry, a refusal": (
        Bounds(burials=0, duplicates=0, replays=0, lost_answers=0),
        BRANCHES,
    ),
    "two crashes and two retries": (
        Bounds(crashes=2, parks=2, burials=0, duplicates=0, refusals=0, replays=0, lost_answers=0),
        LINE,
    ),
}


async def main() -> int:
    with tempfile.TemporaryDirectory() as folder, Valkey(Path(folder), options={"appendfsync": "no"}) as server:
        for name, (bounds, wirings) in WORLDS.items():
            world = World(server.url, bounds, wirings)
            try:
                print(f"{name}: {await search(world)}", flush=True)
            except FoundError as found:
                print(f"{name}: {found}", flush=True)
                return 1
            finally:
                await world.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
