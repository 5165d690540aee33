"""Every benchmark there is, in the order of the table."""

from itertools import chain

from benchmarks.bench import Bench
from benchmarks.rows import drain, function, hop, latency, pipeline

BENCHES: list[Bench] = list(chain.from_iterable(module.BENCHES for module in (drain, latency, hop, pipeline, function)))
