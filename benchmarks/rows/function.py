"""A function alone: events POSTed to it as the bridge does, and what memory it takes."""

import uvloop

from benchmarks import load
from benchmarks.bench import OURS, Bench, Figure, Measured
from benchmarks.lab import PEER_PYTHON, Lab, Peer, Stopwatch
from tests.servers import HOST, ROOT, Server, http_status

EVENTS = 10_000
PLAIN = ROOT / "benchmarks" / "peers" / "plain.py"
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
]
