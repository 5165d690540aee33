"""How soon a function answers once its process starts, what CPU that takes and for what, and its first event."""

import os
import resource
import time
from functools import partial
from http.client import HTTPConnection
from statistics import median

from benchmarks import accounts
from benchmarks.bench import OURS, Bench, Figure, Measured
from benchmarks.harness import Harness, Peer, own_python, until
from functions import payloads
from milepost.events.asyncapi import payloads_of
from milepost.events.event import STRUCTURED_TYPE, Event
from milepost.events.examples import example
from milepost.stage_values import read
from tests.images.component import Component
from tests.servers import HOST, ROOT

STARTS = 9
EVENTS = 12
"""Events POSTed one by one after a start. The first two do not count as warm."""

PAUSE = 0.05
"""Seconds before each event, the first too: one that follows another at once finds its code in the processor's caches,
and the first event never does.
"""

SAME_IMPORTS = ROOT / "benchmarks" / "peers" / "same_imports.py"
CONSUMES = {stage.name: stage.consumes for stage in read(ROOT)}

PARTS = {
    "interpreter": "",
    "uvicorn": "import uvicorn.main, uvicorn.loops.auto",
    "pydantic, starlette and milepost": "import milepost",
    "functions-framework": "import milepost.function.app",
    "the function and its packages": "import functions.{}.main",
}
"""What a start imports, in this order. The rest is reading the settings, listening, and the first answer."""


def bare(harness: Harness, name: str, imports: str) -> Component:
    """A function that does nothing, in the environment of the stage `name`, under uvicorn as it is."""
    env = {"FUNCTION_SOURCE": str(SAME_IMPORTS), "IMPORTS": imports, "UVICORN_HTTP": "auto", "UVICORN_WS": "auto"}
    function = Component(harness.folder, "function", STAGE=name, env=env)
    function.image.command[1:] = ["functions_framework.aio:app"]
    return function


def imports_of(function: Component) -> str:
    """The packages' modules that a stage has loaded when it is ready to serve; its own and ours are not among them."""
    code = f"""
import sys
import uvicorn.main, milepost.function.app
import functions.{function.name}.main
print(*(name for name, module in sys.modules.items() if "site-packages" in (getattr(module, "__file__", "") or "")))
"""
    return function.python(code)


def first_answer(function: Component) -> Measured:
    """Seconds and CPU seconds from the start of the process until its first 2xx. The process goes on."""
    begun = time.monotonic()
    function.launch()
    until(function.is_ready, every=0.001)
    return {"seconds": time.monotonic() - begun, "cpu": accounts.cpu([function.pid])}


def events(function: Component) -> Measured:
    """Seconds of the first event after the wake-up, and of a warm one."""
    (payload,) = [found for found in payloads_of(payloads) if found.channel == CONSUMES[function.name]]
    data = example(payload).model_dump(mode="json")
    connection = HTTPConnection(HOST, function.port, timeout=30)
    connection.connect()
    taken = []
    for number in range(EVENTS):
        event = Event(id=f"{function.pid}-{number}", source="/benchmark", type=payload.channel, data=data)
        body = event.to_json()
        time.sleep(PAUSE)
        begun = time.perf_counter()
        connection.request("POST", "/", body, {"content-type": STRUCTURED_TYPE})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{function.name}: HTTP {response.status} {response.read()!r}")
        response.read()
        taken.append(time.perf_counter() - begun)
    connection.close()
    return {"first": taken[0], "warm": median(taken[2:])}


def started(harness: Harness) -> Measured:
    """Each stage against a bare function that imports the same, in turn."""
    mongo = harness.start(Peer(harness.folder, "benchmarks.mongo", "PORT", python=own_python()))
    env = {"MONGO_URL": f"mongodb://127.0.0.1:{mongo.port}/milepost", "SENT_EMAILS": os.devnull}
    figures: dict[str, float] = {}
    for name in CONSUMES:  # email finds the users that store made
        mine = Component(harness.folder, "function", STAGE=name, env=env)
        other = bare(harness, name, imports_of(mine))
        turns = []
        for _ in range(STARTS):
            try:
                ours = {**first_answer(mine), **events(mine)}
            finally:
                mine.kill()
            try:
                turns.append((ours, first_answer(other)))
            finally:
                other.kill()
        figures |= {
            name: median(ours["seconds"] / theirs["seconds"] for ours, theirs in turns),
            f"{name} cpu ratio": median(ours["cpu"] / theirs["cpu"] for ours, theirs in turns),
            f"{name} seconds": median(ours["seconds"] for ours, _ in turns),
            f"{name} cpu": median(ours["cpu"] for ours, _ in turns),
            f"{name} first": median(ours["first"] / ours["warm"] for ours, _ in turns),
        }
    return figures


def bare_started(harness: Harness, *, same: bool) -> Measured:
    imports = imports_of(Component(harness.folder, "function", STAGE="distance")) if same else ""
    function = bare(harness, "distance", imports)
    found = []
    for _ in range(STARTS):
        try:
            found.append(first_answer(function))
        finally:
            function.kill()
    return {f"distance {key}": median(one[key] for one in found) for key in ("seconds", "cpu")}


def parts(harness: Harness) -> Measured:
    """CPU seconds of each part of a start, all in turn. The garbage collector is on but for the last two parts."""
    figures: dict[str, float] = {}
    for name in CONSUMES:
        function = Component(harness.folder, "function", STAGE=name)
        codes = ["\n".join([*PARTS.values()][: number + 1]).format(name) for number in range(len(PARTS))]
        turns = [[_cpu_of(function, code) for code in codes] for _ in range(STARTS)]
        whole = [median(turn[number] for turn in turns) for number in range(len(PARTS))]
        for number, part in enumerate(PARTS):
            figures[f"{name} {part}"] = (whole[number] - (whole[number - 1] if number else 0)) * 1000
    return figures


def _cpu_of(function: Component, code: str) -> float:
    """Return the CPU seconds of a Python that runs the code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    function.python(code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


BENCHES = [
    Bench(
        "start",
        (
            *(
                Figure(name, f"{name}: start to first 2xx, against a bare function of the same imports", "ratio", 1.1)
                for name in CONSUMES
            ),
            *(Figure(f"{name} cpu ratio", f"{name}: the same, CPU", "ratio") for name in CONSUMES),
            *(Figure(f"{name} seconds", f"{name}: start to first 2xx", "s") for name in CONSUMES),
            *(Figure(f"{name} cpu", f"{name}: start to first 2xx, CPU", "s") for name in CONSUMES),
            *(
                Figure(f"{name} first", f"{name}: first event after a wake-up, against a warm one", "ratio", 1.2)
                for name in CONSUMES
            ),
        ),
        {
            OURS: started,
            "functions_framework.aio, same imports": partial(bare_started, same=True),
            "functions_framework.aio, no imports": partial(bare_started, same=False),
        },
        durable=False,
    ),
    Bench(
        "start-parts",
        tuple(Figure(f"{name} {part}", f"{name}: CPU for {part}", "ms") for name in CONSUMES for part in PARTS),
        {OURS: parts},
        durable=False,
    ),
]
