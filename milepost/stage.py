"""A stage: one plain function and the channel it consumes, served as CloudEvents over HTTP.

The annotations are the wiring. `def distance(s: Submission) -> CalculatedDistance` consumes Submission's
channel and emits CalculatedDistance's; `-> None` emits nothing. A second parameter annotated `Event` receives
the envelope.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import NoneType
from typing import Any, TypeGuard, get_type_hints

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from milepost import tracing
from milepost.answer import Answer, together
from milepost.errors import (
    ConfigurationError,
    Defer,
    EventError,
    InHand,
    MilepostError,
    Reject,
    TooLarge,
    TooSlow,
    Unavailable,
)
from milepost.events.batch import is_batch, read_batch
from milepost.events.event import Event
from milepost.events.payload import Payload
from milepost.function.outage_log import OutageLog
from milepost.http import problem, problem_fields, read_body
from milepost.log import Fields, about, configure_function
from milepost.served import PATH, Served

log = logging.getLogger("milepost.stage")
with suppress(ConfigurationError):  # raised again by `stage`: when uvicorn is ready to tell it in a sentence
    configure_function()  # when this is imported: a function reads its settings right after

Main = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Description:
    """What a stage is: the answer to `GET /`."""

    name: str
    consumes: type[Payload]
    emits: type[Payload] | None
    summary: str
    takes_event: bool

    def as_json(self) -> dict[str, Any]:
        """Name, channels and JSON schemas of both payloads."""
        return {
            "name": self.name,
            "summary": self.summary,
            "consumes": self.consumes.channel,
            "emits": self.emits.channel if self.emits else None,
            "schemas": {
                payload.channel: payload.model_json_schema()
                for payload in (self.consumes, self.emits)
                if payload is not None
            },
        }


def describe(function: Callable[..., Any]) -> Description:
    """Read the wiring off a function's annotations. Raises ConfigurationError saying what is missing."""
    name = getattr(function, "__name__", repr(function))
    hints = get_type_hints(function)
    parameters = list(inspect.signature(function).parameters)
    if not parameters or len(parameters) > 2:
        raise ConfigurationError(f"stage {name}: takes one payload, and an Event if it wants the envelope")
    consumes = hints.get(parameters[0])
    emits = hints.get("return", inspect.Parameter.empty)
    if not _is_payload(consumes):
        raise ConfigurationError(f"stage {name}: annotate {parameters[0]} with a Payload that has a channel")
    if emits is NoneType:
        emits = None
    elif not _is_payload(emits):
        raise ConfigurationError(f"stage {name}: annotate what it returns: a Payload that has a channel, or None")
    if len(parameters) == 2 and hints.get(parameters[1]) is not Event:
        raise ConfigurationError(f"stage {name}: annotate {parameters[1]} with Event")
    return Description(
        name=name.replace("_", "-"),
        consumes=consumes,
        emits=emits,
        summary=inspect.getdoc(function) or "",
        takes_event=len(parameters) == 2,
    )


def stage(function: Callable[..., Any], *, inline: bool = False) -> Main:
    """Make the HTTP face of a stage, for functions-framework (`FUNCTION_TARGET=main`, aio).

    `inline=True` declares a sync function quick enough for the event loop; others run in a worker thread.
    `main.description` is its Description; `function` itself stays callable as it was. `GET /metrics` has its counts.
    Raises ConfigurationError when the annotations do not name the channels, or a setting is wrong.
    """
    configure_function()
    description = describe(function)
    tracer = tracing.tracer(description.name, shared=True)
    served = Served(description.name)
    outages = OutageLog()
    working = {"stage": description.name, "channel": description.consumes.channel}
    call = function if inspect.iscoroutinefunction(function) or inline else partial(asyncio.to_thread, function)

    async def reply_to(event: Event) -> Event | None:
        if tracer:
            tracer.took(event)
        payload = _payload(description, event)
        result = call(payload, event) if description.takes_event else call(payload)
        if inspect.isawaitable(result):
            result = await result
        return _reply(description, event, result)

    async def answer_to(event: Event) -> Answer:
        about.set({**working, "id": event.id})
        return outages.note(await _answer(description, reply_to, event))

    answer = served.counted(answer_to)

    async def answers(events: Sequence[Event]) -> Sequence[Answer]:
        """Answer each event by itself."""
        if inline or len(events) == 1:
            return [await answer(event) for event in events]
        return await asyncio.gather(*map(answer, events))

    async def main(request: Request) -> Response:
        if request.method in {"GET", "HEAD"}:
            return served.page() if request.url.path == PATH else JSONResponse(description.as_json())
        if request.method != "POST":
            return problem(405, "Method not allowed", "POST a CloudEvent, or GET the description")
        token = about.set(working)
        try:
            if tracer is None:
                return await _respond(request, answers, served, outages)
            with tracer.process(description.name, description.consumes.channel, request.headers):
                response = await _respond(request, answers, served, outages)
                tracer.returned(response.status_code)
                return response
        finally:
            about.reset(token)

    main.description = description  # type: ignore[attr-defined]
    return main


class _Invalid(Reject):
    """A payload that is not what the channel carries; `errors` has a field and a fault for each."""

    def __init__(self, fault: ValidationError) -> None:
        self.errors = [
            {
                "field": ".".join(map(str, error["loc"])) or "data",
                "fault": error["msg"].removeprefix("Value error, "),
            }
            for error in fault.errors(include_url=False, include_context=False, include_input=False)
        ]
        super().__init__("; ".join(f"{error['field']}: {error['fault']}" for error in self.errors))


async def _respond(
    request: Request,
    answers: Callable[[Sequence[Event]], Awaitable[Sequence[Answer]]],
    served: Served,
    outages: OutageLog,
) -> Response:
    """Answer one event, or a batch with a batch."""
    headers = request.headers
    try:
        body = await read_body(request)
        if is_batch(headers.get("content-type", "")):
            events = read_batch(body)
            return together(events, await answers(events))
        event = Event.from_http(headers, body)
    except MilepostError as fault:
        return served.answered(outages.note(_refusal(fault))).alone()
    (answer,) = await answers([event])
    return answer.alone()


async def _answer(
    description: Description, reply_to: Callable[[Event], Awaitable[Event | None]], event: Event
) -> Answer:
    try:
        return Answer(await reply_to(event))
    except MilepostError as fault:
        return _refusal(fault)
    except Exception:
        log.exception(Fields(outcome="failed"))
        return Answer(
            problem=problem_fields(500, "Internal error", f"stage {description.name} failed; its log says why")
        )


def _refusal(fault: MilepostError) -> Answer:
    errors, retry_after = None, None
    match fault:
        case TooLarge():
            status, title = 413, "Too large"
        case TooSlow():
            status, title = 408, "Too slow"
        case EventError():
            status, title = 400, "Not a CloudEvent"
        case _Invalid():
            status, title, errors = 422, "Invalid payload", fault.errors
        case Reject():
            status, title = 422, "Rejected"
        case InHand():
            status, title, retry_after = 409, "In hand elsewhere", fault.retry_after
        case Defer():
            status, title, retry_after = 409, "Deferred", fault.retry_after
        case Unavailable():
            status, title, retry_after = 503, "Unavailable", fault.retry_after
        case _:
            status, title = 500, "Internal error"
            log.error(Fields(outcome="failed", reason=str(fault)))
    return Answer(problem=problem_fields(status, title, str(fault), errors=errors), retry_after=retry_after)


def _is_payload(annotation: Any) -> TypeGuard[type[Payload]]:
    return isinstance(annotation, type) and issubclass(annotation, Payload) and hasattr(annotation, "channel")


def _payload(description: Description, event: Event) -> Payload:
    consumed = description.consumes.channel
    if event.type != consumed:
        raise Reject(f"type: {description.name} consumes {consumed}, not {event.type}")
    try:
        return description.consumes.model_validate(event.data)
    except ValidationError as fault:
        raise _Invalid(fault) from None


def _reply(description: Description, event: Event, result: Any) -> Event | None:
    if description.emits is None:
        return None
    if not isinstance(result, description.emits):
        raise MilepostError(
            f"{description.name} returned {type(result).__name__}, not its {description.emits.__name__}"
        )
    return Event(
        id=event.id,
        source=f"/milepost/{description.name}",
        type=description.emits.channel,
        # The event's own time, and none if it has none: a redelivery gets the same answer as the first time.
        time=event.time,
        data=result.model_dump(mode="json"),
        extensions={name: event.extensions[name] for name in tracing.EXTENSIONS if name in event.extensions},
    )
