"""The rows, one module for each kind of process at fault."""

from tests.faults.rows import (
    answers,
    bridges,
    failover,
    order,
    outages,
    poison,
    power,
    processes,
    repeats,
    servers,
    stages,
    window,
)

__all__ = [
    "answers",
    "bridges",
    "failover",
    "order",
    "outages",
    "poison",
    "power",
    "processes",
    "repeats",
    "servers",
    "stages",
    "window",
]
