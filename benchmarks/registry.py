"""Every benchmark there is, in the order of the table."""

from itertools import chain

from benchmarks.bench import Bench
from benchmarks.rows import drain, function, hop, latency, pipeline, redis

_ROWS = (drain, latency, hop, redis, pipeline, function)

BENCHES: list[Bench] = list(chain.from_iterable(module.BENCHES for module in _ROWS))
