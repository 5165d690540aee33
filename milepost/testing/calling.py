"""Call a stage as the bridge does, without a server, and get the payload that would go to the next channel."""

import asyncio
from typing import Any
from uuid import uuid4

from milepost.events.event import Event, now
from milepost.events.payload import Payload
from milepost.function.calling import Problem, answer, load
from milepost.function.description import Description
from milepost.function.stage import StageHandler

__all__ = ["Problem", "answer", "described", "event_of", "load", "run"]


def described(stage: StageHandler) -> Description:
    """Return the description of a stage, read from its annotations."""
    description: Description = stage.description  # type: ignore[attr-defined]
    return description


def event_of(channel: str, payload: Any, *, event_id: str | None = None) -> Event:
    """Make an event on `channel` with `payload` as data: a Payload, or any JSON."""
    data = payload.model_dump(mode="json") if isinstance(payload, Payload) else payload
    return Event(id=event_id or str(uuid4()), source="/test", type=channel, time=now(), data=data)


def run(stage: StageHandler, payload: Any) -> Payload | None:
    """Deliver a payload (a Payload, or any JSON) and return the next one, or None if the stage emits nothing.

    Raises Problem if the stage refuses it. For tests that are plain functions; in a coroutine await `answer`.
    """
    description = described(stage)
    reply = asyncio.run(answer(stage, event_of(description.consumes.channel, payload)))
    if reply is None:
        return None
    returned = next(payload for payload in description.emits if payload.channel == reply.type)
    return returned.model_validate(reply.data)
