"""Every benchmark there is, in the order of the table."""

from itertools import chain

from benchmarks.bench import Bench
from benchmarks.rows import drain, features, from_zero, function, hop, latency, pipeline, redis, start

_ROWS = (drain, latency, hop, features, redis, pipeline, function, start, from_zero)

BENCHES: list[Bench] = list(chain.from_iterable(module.BENCHES for module in _ROWS))
