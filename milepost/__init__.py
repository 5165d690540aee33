"""Milepost: an event-driven pipeline of serverless Python functions, fed by Redis.

For authors of stages: the payload base, the stage itself, the event and the exceptions.
"""

from milepost.errors import Defer, Reject, Unavailable
from milepost.events.event import Event
from milepost.events.payload import IsNumber, Number, Payload, RootPayload
from milepost.function.stage import stage

__version__ = "0.1.0"

__all__ = [
    "Defer",
    "Event",
    "IsNumber",
    "Number",
    "Payload",
    "Reject",
    "RootPayload",
    "Unavailable",
    "stage",
]
