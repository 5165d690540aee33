"""`make model`: the whole search, world by world, with the size and the bounds of each, and the size of all."""

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from tests.model.search import FoundError, Result, search
from tests.model.worlds import SMALL, WHOLE
from tests.servers import Valkey


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make model", description=__doc__)
    parser.add_argument("--only", default="", help="search worlds whose name contains this")
    parser.add_argument("--small", action="store_true", help="search the small worlds of `make test`")
    parser.add_argument("--script", type=Path, help="write the program that replays a violation to this file")
    given = parser.parse_args()
    logging.getLogger("milepost").setLevel(logging.CRITICAL)
    worlds = {name: make for name, make in (SMALL if given.small else WHOLE).items() if given.only in name}
    whole = Result()
    with tempfile.TemporaryDirectory() as folder, Valkey(Path(folder), options={"appendfsync": "no"}) as server:
        for name, make in worlds.items():
            world = make(server.url)
            try:
                result = await search(world)
                print(f"{name}: {result}\n    {world!r}", flush=True)
                whole.add(result)
            except FoundError as found:
                print(f"{name}: {found}", flush=True)
                if given.script:
                    given.script.write_text(found.script)
                return 1
            finally:
                await world.close()
    print(f"all: {whole}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
