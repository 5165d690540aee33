"""A function alone: events POSTed to it as the bridge does, how soon it answers at first, and what memory it takes."""

import time
from functools import partial
from statistics import median

import uvloop

from benchmarks import load
from benchmarks.bench import OURS, Bench, Figure, Measured
from benchmarks.lab import PEER_PYTHON, Lab, Peer, Stopwatch, until
from tests.images.component import Component
from tests.servers import HOST, ROOT, Server, http_status

EVENTS = 10_000
STARTS = 15
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


def bare(lab: Lab, name: str, imports: str) -> Component:
    """A function that does nothing, in the environment of the stage `name`, under uvicorn as it is."""
    env = {"FUNCTION_SOURCE": str(SAME_IMPORTS), "IMPORTS": imports, "UVICORN_HTTP": "auto", "UVICORN_WS": "auto"}
    return Component(lab.folder, "function", STAGE=name, env=env)


def imports_of(function: Component) -> str:
    """The packages' modules that a stage has loaded when it is ready to serve; its own and ours are not among them."""
    code = f"""
import sys
import uvicorn.main, functions_framework.aio
import functions.{function.name}.main
print(*(name for name, module in sys.modules.items() if "site-packages" in (getattr(module, "__file__", "") or "")))
"""
    return function.python(code)


def first_answer(function: Component) -> float:
    """Seconds from the start of the process until its first 2xx."""
    begun = time.monotonic()
    function.launch()
    try:
        until(function.is_ready, every=0.001)
        return time.monotonic() - begun
    finally:
        function.kill()


def started(lab: Lab) -> Measured:
    """Each stage against a bare function that imports the same, in turn."""
    figures: dict[str, float] = {}
    for name in STAGES:
        mine = Component(lab.folder, "function", STAGE=name)
        other = bare(lab, name, imports_of(mine))
        turns = [(first_answer(mine), first_answer(other)) for _ in range(STARTS)]
        ours, theirs = (median(taken) for taken in zip(*turns, strict=True))
        figures |= {name: ours / theirs, f"{name} seconds": ours}
    return figures


def bare_started(lab: Lab, *, same: bool) -> Measured:
    imports = imports_of(Component(lab.folder, "function", STAGE="distance")) if same else ""
    function = bare(lab, "distance", imports)
    return {"distance seconds": median(first_answer(function) for _ in range(STARTS))}


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
            "functions_framework.aio, same imports": partial(bare_started, same=True),
            "functions_framework.aio, no imports": partial(bare_started, same=False),
        },
        durable=False,
    ),
]
