"""How the bridge's cost grows: `python -m benchmarks --growth`. Each curve becomes a plot in benchmarks/plots/."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from benchmarks import fill
from benchmarks.bench import Measured
from benchmarks.harness import Harness, Stopwatch, until
from benchmarks.plot import draw
from benchmarks.report import figure
from benchmarks.rows import drain
from tests.servers import ROOT

PLOTS = ROOT / "benchmarks" / "plots"
DELIVERIES = 32_000


@dataclass(frozen=True)
class Curve:
    """One trial for each x; `cpu`, per 1,000 deliveries, is plotted."""

    name: str
    title: str
    along: str
    places: Sequence[int]
    trial: Callable[[Harness, int], Measured]


def delivered(harness: Harness, *, stages: int = 1, bridges: int = 1) -> Measured:
    """So many bridges serve `stages` stages of one channel: each event is POSTed as often. The sink stands still until
    every bridge is ready, so that no start is counted.
    """
    events = DELIVERIES // stages
    fill.journal(harness.redis.url, map(fill.submission, range(events)))
    sink, arrivals = harness.sink(events)
    sink.freeze()
    url = f"http://127.0.0.1:{sink.port}"
    routes = [{"name": f"stage-{number}", "consumes": "raw_input", "url": url} for number in range(stages)]
    relays = [harness.bridge(*routes) for _ in range(bridges)]
    watch = Stopwatch(*relays)
    sink.thaw()
    until(lambda: arrivals.posts >= events * stages)
    return watch.stop(events * stages)


CURVES = [
    Curve(
        "bridges",
        "Several bridges on one channel",
        "bridges",
        (1, 2, 4),
        lambda harness, x: delivered(harness, bridges=x),
    ),
    Curve("stages", "Stages on one channel", "stages", (1, 4, 16, 64), lambda harness, x: delivered(harness, stages=x)),
    Curve(
        "size",
        "Events of different size",
        "bytes of data",
        (100, 1_000, 10_000, 100_000),
        lambda harness, x: drain.ours(harness, events=min(20_000, 200_000_000 // x), size=x),
    ),
    Curve(
        "backlog",
        "Backlogs of different length",
        "events",
        (1_000, 10_000, 100_000),
        lambda harness, x: drain.ours(harness, events=x),
    ),
]
LARGEST = 1_000_000
"""The backlog that takes minutes, and is measured only if asked for."""


def run(only: Sequence[str], *, large: bool, console: Console) -> dict[str, dict[int, Measured]]:
    """Every curve chosen: by name, the figures at each x."""
    found: dict[str, dict[int, Measured]] = {}
    PLOTS.mkdir(exist_ok=True)
    for curve in CURVES:
        if only and not any(part in curve.name for part in only):
            continue
        places = [*curve.places, LARGEST] if large and curve.name == "backlog" else curve.places
        measured = found[curve.name] = {}
        for x in places:
            with console.status(f"{curve.name}: {x}"), Harness() as harness:
                measured[x] = curve.trial(harness, x)
            shown = ", ".join(f"{key} {figure(value)}" for key, value in measured[x].items())
            console.print(f"{curve.name} {x:,}: {shown}", highlight=False)
        points = [(float(x), one["cpu"]) for x, one in measured.items()]
        draw(PLOTS / f"{curve.name}.svg", curve.title, curve.along, "CPU s per 1,000 deliveries", points)
    return found
