"""Call a stage as the bridge does, without a server, and get the payload that would go to the next channel."""

import asyncio
from typing import Any
from uuid import uuid4

from milepost.events.event import Event, now
from milepost.events.payload import Payload
from milepost.function.calling import Problem, answer, answers, load
from milepost.function.description import Description
from milepost.function.stage import StageHandler

__all__ = ["Problem", "answer", "answers", "described", "event_of", "load", "run", "run_all"]


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

    Raises Problem if the stage refuses it. For tests that are plain functions; in a coroutine await `answer`. For a
    stage that gives several answers there is `run_all`.
    """
    found = run_all(stage, payload)
    if len(found) > 1:
        raise ValueError(f"{len(found)} answers; `run_all` returns them all")
    return found[0] if found else None


def run_all(stage: StageHandler, payload: Any) -> list[Payload]:
    """Do the same, and return all next payloads."""
    description = described(stage)
    classes = {returned.channel: returned for returned in description.emits}
    replies = asyncio.run(answers(stage, event_of(description.consumes.channel, payload)))
    return [classes[reply.type].model_validate(reply.data) for reply in replies]
