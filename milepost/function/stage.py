"""`@stage`: serve a plain function as an HTTP handler of CloudEvents.

The annotations are the wiring. `def distance(s: Submission) -> CalculatedDistance` consumes Submission's channel and
emits on CalculatedDistance's; `-> None` emits nothing. `-> Approved | Declined` emits on the channel of the class of
what is returned. `-> list[Item]`, or an iterator, emits an event for each item. A second parameter, annotated with
`Event` or with the CloudEvents SDK's `CloudEvent`, gets the envelope.

A request with one event or a batch takes this way: read the body, read the events, and for each event check its type,
validate the payload, call the function, and make its return value the next event. A failure at any step is a problem
(RFC 9457) for that event alone.
"""

import asyncio
import inspect
import logging
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
    Sized,
)
from contextlib import suppress
from contextvars import ContextVar
from copy import copy
from functools import partial
from itertools import islice
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from milepost.errors import ConfigurationError, InvalidPayload, MilepostError, Reject, Unavailable
from milepost.events.attributes import LONGEST
from milepost.events.batch import (
    MOST_ANSWERS,
    TooManyAnswers,
    check_answers,
    check_count,
    is_batch,
    part_id,
    read_batch,
)
from milepost.events.event import STRUCTURED_TYPE, Event, media_type
from milepost.events.examples import example
from milepost.events.payload import Payload, faults_of
from milepost.function import logs
from milepost.function.description import Description, describe
from milepost.function.environment import request_timeout
from milepost.function.lifespan import Lifespan, MakeLifespan
from milepost.function.outage_log import OutageLog
from milepost.function.responses import StageResponse, batch_response
from milepost.function.threads import run_in_thread
from milepost.observe import traces
from milepost.observe.logs import Fields, about
from milepost.server.http import problem, read_body

log = logging.getLogger("milepost.stage")
with suppress(ConfigurationError):  # `stage` raises it again, when uvicorn can show it as a sentence
    logs.configure()  # at import, before the function's module reads its settings

arrival: ContextVar[float] = ContextVar("arrival")
"""When the request came that is handled now, in the event loop's time: before it waited for the lifespan."""

StageHandler = Callable[[Request], Awaitable[Response]]

KEPT = (*traces.EXTENSIONS, "partitionkey")
"""Extensions of an event that its answers have too: its trace, and the key of stages with `order: true`."""


def stage(function: Callable[..., Any], *, inline: bool = False, lifespan: MakeLifespan | None = None) -> StageHandler:
    """Make the HTTP handler of a stage, for functions-framework (`FUNCTION_TARGET=main`, aio).

    `inline=True` runs a sync function on the event loop, if it is quick enough; other sync functions run in threads.
    `lifespan` makes an async context manager, as FastAPI has it: entered before the first event, left when the server
    stops. The handler's attribute `description` is its Description; `function` itself stays callable.

    Raises ConfigurationError when the annotations do not name the channels, or a setting is wrong.
    """
    logs.configure()
    served = _ServedStage(function, inline=inline, lifespan=lifespan)

    async def main(request: Request) -> Response:  # functions-framework takes only a real function
        return await served.respond(request)

    main.description = served.description  # type: ignore[attr-defined]
    return main


class _ServedStage:
    def __init__(self, function: Callable[..., Any], *, inline: bool, lifespan: MakeLifespan | None) -> None:
        self.description = describe(function)
        self._lifespan = Lifespan(lifespan, self.description) if lifespan else None
        self._tracer = traces.tracer(self.description.name, shared=True)
        self._outages = OutageLog()
        self._about = {"stage": self.description.name, "channel": self.description.consumes.channel}
        self._inline = inline
        self._warm = False
        self._timeout = request_timeout(os.environ)
        is_async = inspect.iscoroutinefunction(function)
        self._call = function if is_async or inline else partial(self._in_thread, 1 / 2, function)

    async def respond(self, request: Request) -> Response:
        if request.method in {"GET", "HEAD"}:
            return await self._wake()
        if request.method != "POST":
            return problem(405, "Method not allowed", "POST a CloudEvent, or GET the description")
        arrival.set(asyncio.get_running_loop().time())
        token = about.set(self._about)
        try:
            if self._tracer is None:
                return await self._respond(request)
            with self._tracer.process(self.description.name, self.description.consumes.channel, request.headers):
                response = await self._respond(request)
                self._tracer.returned(response.status_code)
                return response
        finally:
            about.reset(token)

    async def _wake(self) -> Response:
        """Enter the lifespan, warm up, and describe the stage; 503 if the lifespan fails."""
        try:
            if self._lifespan:
                await self._lifespan.enter()
        except Unavailable as fault:
            return self._outages.note(StageResponse.of_fault(fault)).to_http()
        if not self._warm:
            self._warm = True
            await self._warm_up()
        return JSONResponse(self.description.as_json())

    async def _warm_up(self) -> None:
        """Take an example the way of an event, but for the function: code that runs for the first time is slow.

        The answer is dropped, and nothing is logged or traced. An example that cannot be made changes nothing.
        """
        consumes, emits = self.description.consumes, self.description.emits
        with suppress(Exception):
            data = example(consumes).model_dump(mode="json")
            body = Event(id="wake-up", source="/milepost", type=consumes.channel, data=data).to_json().encode()
            answers = [example(payload) for payload in emits[:1]]
            same = copy(self)
            answer = answers if self.description.split else next(iter(answers), None)
            vars(same).update(_call=lambda *_: answer, _lifespan=None, _tracer=None, _outages=OutageLog())
            headers = Headers({"content-type": STRUCTURED_TYPE}).raw
            request = {"type": "http", "method": "POST", "path": "/", "headers": headers}
            await same.respond(Request(request, partial(_whole, body)))

    async def _respond(self, request: Request) -> Response:
        """Answer one event with one response, a batch with a batch."""
        try:
            body = await read_body(request)
            content_type = request.headers.get("content-type", "")
            if is_batch(content_type):
                events = read_batch(body)
                return batch_response(events, await self._handle_all(events))
            event = Event.from_http(request.headers, body)
        except MilepostError as fault:
            return self._outages.note(StageResponse.of_fault(fault)).to_http()
        return (await self._handle(event)).to_http(structured=media_type(content_type) == STRUCTURED_TYPE)

    async def _handle_all(self, events: Sequence[Event]) -> Sequence[StageResponse]:
        if self._inline:
            return [await self._handle(event) for event in events]
        return await asyncio.gather(*map(self._handle, events))

    async def _handle(self, event: Event) -> StageResponse:
        about.set({**self._about, "id": event.id})
        return self._outages.note(await self._run(event))

    async def _run(self, event: Event) -> StageResponse:
        try:
            if self._tracer:
                self._tracer.took(event)
            payload = _payload(self.description, event)
            if self._lifespan:
                await self._lifespan.enter()
            result = self._call(payload, *self._envelope(event))
            if inspect.isawaitable(result):
                result = await result
            if self.description.split:
                return StageResponse(answers=await self._answers(event, result))
            return StageResponse(_next_event(self.description, event, result))
        except TooManyAnswers as fault:
            return StageResponse.of_fault(Reject(f"{self.description.name} gave {fault}"))
        except MilepostError as fault:
            response = StageResponse.of_fault(fault)
            if response.status == 500:
                log.error(Fields(outcome="failed", reason=str(fault)))  # noqa: TRY400 - the text says it all
            return response
        except (Exception, SystemExit):  # which would end the process of all, as argparse does
            log.exception(Fields(outcome="failed"))
            reason = f"stage {self.description.name} failed; its log says why"
            return StageResponse.of_fault(MilepostError(reason))

    async def _in_thread(self, share: float, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a thread. Raises Unavailable if it cannot begin in this share of the request's time."""
        return await run_in_thread(arrival.get() + self._timeout * share, function, *arguments)

    async def _answers(self, event: Event, result: Any) -> Sequence[Event]:
        """Make an event of each payload that the function returns or yields. Raises TooManyAnswers."""
        if isinstance(result, AsyncIterable):
            payloads = await _collected(result)
        elif not isinstance(result, Iterable) or isinstance(result, Payload | str | bytes | Mapping):
            raise MilepostError(f"{self.description.name} returned {type(result).__name__}, not several payloads")
        elif isinstance(result, Sized) or self._inline:
            payloads = _taken(result)
        else:
            payloads = await self._in_thread(9 / 10, _taken, result)  # the function's code runs while it is iterated
        check_count(len(result) if isinstance(result, Sized) else len(payloads), more=not isinstance(result, Sized))
        answers = [_answer(self.description, event, payload, place) for place, payload in enumerate(payloads)]
        check_answers(answers)
        return answers

    def _envelope(self, event: Event) -> Sequence[Any]:
        match self.description.envelope:
            case "event":
                return [event]
            case "sdk":
                return [event.to_sdk()]
            case _:
                return []


async def _whole(body: bytes) -> dict[str, Any]:
    """Return a request's body as an ASGI message."""
    return {"type": "http.request", "body": body}


def _payload(description: Description, event: Event) -> Payload:
    consumed = description.consumes.channel
    if event.type != consumed:
        raise Reject(f"type: {description.name} consumes {consumed}, not {event.type}")
    try:
        return description.consumes.model_validate(event.data)
    except ValidationError as fault:
        raise InvalidPayload(faults_of(fault)) from None


def _next_event(description: Description, event: Event, result: Any) -> Event | None:
    """Return the next event, or None. Raises ValueError if its data is not JSON, as NaN."""
    if not description.emits or (result is None and description.may_be_none):
        return None
    made = _event(description, event, event.id, result)
    made.data_json()  # it is written once
    return made


def _answer(description: Description, event: Event, payload: Any, place: int) -> Event:
    """Return one of several answers. Raises Reject if its id would be too long."""
    made = part_id(event.id, place)
    if len(made) > LONGEST["id"]:
        raise Reject(f"id: {LONGEST['id']} characters at most, and those of its answers are longer, as {made[-20:]}")
    return _event(description, event, made, payload)


def _taken(payloads: Iterable[Any]) -> list[Any]:
    """Take the first payloads, one more than there may be at most. Closes a generator."""
    try:
        return list(islice(payloads, MOST_ANSWERS + 1))
    finally:
        if isinstance(payloads, Generator):
            payloads.close()


async def _collected(payloads: AsyncIterable[Any]) -> list[Any]:
    """The same for an asynchronous iterator."""
    taken: list[Any] = []
    try:
        async for payload in payloads:
            taken.append(payload)
            if len(taken) > MOST_ANSWERS:
                break
    finally:
        if isinstance(payloads, AsyncGenerator):
            await payloads.aclose()
    return taken


def _event(description: Description, event: Event, event_id: str, result: Any) -> Event:
    channel = _channel_of(description, result)
    return Event(
        id=event_id,
        source=f"/milepost/{description.name}",
        type=channel,
        time=event.time,  # its own time, or none, so that a redelivery gets the same answer
        data=result.model_dump(mode="json"),
        extensions={name: event.extensions[name] for name in KEPT if name in event.extensions},
    )


def _channel_of(description: Description, result: Any) -> str:
    """Return the channel of a payload's class, its own or the one that it has inherited.

    Raises MilepostError if the stage does not emit on it: the function returned what its annotation does not say.
    """
    channel = getattr(type(result), "channel", None)
    for payload in description.emits:
        if payload.channel == channel and isinstance(result, payload):
            return payload.channel
    returned = type(result).__name__ + (f" (channel {channel})" if isinstance(result, Payload) and channel else "")
    named = " or ".join([payload.__name__ for payload in description.emits] + ["None"] * description.may_be_none)
    raise MilepostError(f"{description.name} returned {returned}, not its {named}")
