"""A function alone: events POSTed to it as the bridge does, how soon it answers at first, and what memory it takes."""

import os
import subprocess
import sys
import time
from functools import partial
from statistics import median

import uvloop

from benchmarks import load
from benchmarks.bench import OURS, Bench, Figure, Measured
from benchmarks.lab import PEER_PYTHON, Lab, Peer, Stopwatch, until
from tests.servers import HOST, ROOT, Server, free_port, http_status

EVENTS = 10_000
STARTS = 7
STAGES = ("distance", "store", "email")
PLAIN = ROOT / "benchmarks" / "peers" / "plain.py"
SAME_IMPORTS = ROOT / "benchmarks" / "peers" / "same_imports.py"
ASGI = "functions_framework.aio:app"


class Uvicorn(Peer):
    """An ASGI application by the contenders' uvicorn."""

    def __init__(self, lab: Lab, app: str, **env: str) -> None:
        options = [app, "--host", HOST, "--port", "PORT", "--log-level", "warning", "--no-access-log"]
        super().__init__(lab.folder, "uvicorn", *options, env=env)

    def is_ready(self) -> bool:
        return http_status(self.port, "/") is not None


class Flask(Uvicorn):
    """The synchronous functions-framework, in the production server it brings."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, "", FUNCTION_SOURCE=str(PLAIN), FUNCTION_TARGET="sync_main")
        self._command = [str(PEER_PYTHON.with_name("functions-framework"))]
        self._args = ("--host", HOST, "--port", "PORT")


class Func(Uvicorn):
    """func-python."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, "")
        self._command, self._args = [str(PEER_PYTHON), "-m", "benchmarks.peers.func"], ()
        self.env["LISTEN_ADDRESS"] = f"{HOST}:{self.port}"


def plain(lab: Lab) -> Server:
    return Uvicorn(lab, ASGI, FUNCTION_SOURCE=str(PLAIN), FUNCTION_TARGET="main")


def loaded(server: Server) -> Measured:
    requests = [load.event(number) for number in range(EVENTS)]
    watch = Stopwatch(server)
    uvloop.run(load.closed_loop(server.port, requests))
    return watch.stop(EVENTS)


def ours(lab: Lab) -> Measured:
    return loaded(lab.function("distance"))


def starts(source: str, target: str = "main") -> float:
    """Seconds from the start of the process until its first 2xx, in our own environment."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", ASGI, "--host", HOST, "--port", str(port), "--lifespan", "on"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FUNCTION_SOURCE": source, "FUNCTION_TARGET": target}
    begun = time.monotonic()
    process = subprocess.Popen([*command, "--log-level", "warning"], env=env, cwd=ROOT)
    try:
        until(lambda: http_status(port, "/") == 200, every=0.001)
        return time.monotonic() - begun
    finally:
        process.kill()
        process.wait()


def started(_: Lab) -> Measured:
    """Each stage against a bare function that imports the same, in turn."""
    figures: dict[str, float] = {}
    for name in STAGES:
        mine, bare = [], []
        for _turn in range(STARTS):
            mine.append(starts(str(ROOT / "functions" / name / "main.py")))
            os.environ["IMPORTS"] = IMPORTS[name]
            bare.append(starts(str(SAME_IMPORTS)))
        figures |= {name: median(mine) / median(bare), f"{name} seconds": median(mine)}
    return figures


def bare(_: Lab, *, imports: str = "") -> Measured:
    os.environ["IMPORTS"] = imports
    return {"distance seconds": median(starts(str(SAME_IMPORTS)) for _ in range(STARTS))}


IMPORTS = {
    "distance": "pydantic email_validator geopy.distance",
    "store": "pydantic email_validator pymongo",
    "email": "pydantic email_validator pymongo",
}
"""What each stage stands on, and a bare function would import too."""

BENCHES = [
    Bench(
        "function",
        (
            Figure("rate", "stage distance alone, 32 connections", "events/s", more_is_better=True),
            Figure("cpu", "stage distance alone: CPU", "CPU s/1000"),
            Figure("memory", "stage distance after 10,000 events: peak memory", "MB", 60),
        ),
        {
            OURS: ours,
            "functions-framework (aio)": lambda lab: loaded(lab.start(plain(lab))),
            "functions-framework (sync)": lambda lab: loaded(lab.start(Flask(lab))),
            "func-python": lambda lab: loaded(lab.start(Func(lab))),
        },
        durable=False,
    ),
    Bench(
        "start",
        (
            *(
                Figure(name, f"{name}: start to first 2xx, against a bare function of the same imports", "ratio", 1.15)
                for name in STAGES
            ),
            Figure("distance seconds", "distance: start to first 2xx", "s"),
        ),
        {
            OURS: started,
            "functions_framework.aio, same imports": partial(bare, imports=IMPORTS["distance"]),
            "functions_framework.aio, no imports": bare,
        },
        durable=False,
    ),
]
