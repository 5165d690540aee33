"""A function alone: events POSTed to it as the bridge does, and what memory it takes."""

import uvloop

from benchmarks import load
from benchmarks.bench import OURS, Bench, Figure, Measured
from benchmarks.harness import PEER_PYTHON, Harness, Peer, Stopwatch
from tests.servers import HOST, ROOT, Server, http_status

EVENTS = 10_000
PLAIN = ROOT / "benchmarks" / "peers" / "plain.py"
ASGI = "functions_framework.aio:app"


class Uvicorn(Peer):
    """An ASGI application by the contenders' uvicorn."""

    def __init__(self, harness: Harness, app: str, **env: str) -> None:
        options = [app, "--host", HOST, "--port", "PORT", "--log-level", "warning", "--no-access-log"]
        super().__init__(harness.folder, "uvicorn", *options, env=env)

    def is_ready(self) -> bool:
        return http_status(self.port, "/") is not None


class Flask(Uvicorn):
    """The synchronous functions-framework, in the production server it brings."""

    def __init__(self, harness: Harness) -> None:
        super().__init__(harness, "", FUNCTION_SOURCE=str(PLAIN), FUNCTION_TARGET="sync_main")
        self._command = [str(PEER_PYTHON.with_name("functions-framework"))]
        self._args = ("--host", HOST, "--port", "PORT")


class Func(Uvicorn):
    """func-python."""

    def __init__(self, harness: Harness) -> None:
        super().__init__(harness, "")
        self._command, self._args = [str(PEER_PYTHON), "-m", "benchmarks.peers.func"], ()
        self.env["LISTEN_ADDRESS"] = f"{HOST}:{self.port}"


def plain(harness: Harness) -> Server:
    return Uvicorn(harness, ASGI, FUNCTION_SOURCE=str(PLAIN), FUNCTION_TARGET="main")


def loaded(server: Server) -> Measured:
    requests = [load.event(number) for number in range(EVENTS)]
    watch = Stopwatch(server)
    uvloop.run(load.closed_loop(server.port, requests))
    return watch.stop(EVENTS)


def ours(harness: Harness) -> Measured:
    return loaded(harness.function("distance"))


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
            "functions-framework (aio)": lambda harness: loaded(harness.start(plain(harness))),
            "functions-framework (sync)": lambda harness: loaded(harness.start(Flask(harness))),
            "func-python": lambda harness: loaded(harness.start(Func(harness))),
        },
        durable=False,
    ),
]
