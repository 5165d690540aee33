"""A proxy between the bridge and a function: it forwards, delays, cuts or repeats requests and responses."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self, cast

import httpx

from milepost.events.event import Event
from tests.bridge.rig import Answer, Delivery, Stage, status
from tests.faults.history import History, Operation

Behaviour = Callable[["StageProxy", Delivery], Awaitable[Answer]]
"""Answers one delivery, with the function's answer or another."""


KEPT_HEADERS = "ce-", "content-type", "retry-after"


class Cut(bytes):
    """A part of an answer: the connection is closed after it."""


class ClosingWriter:
    """A writer that closes the connection after a Cut."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(data)
        if isinstance(data, Cut):
            self._writer.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


def among_many(answer: bytes) -> dict[str, Any]:
    """An answer to one event as it stands in the answer to a batch."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    code, headers = int(first.split()[1]), dict(line.split(": ", 1) for line in lines)
    said: dict[str, Any] = {"status": code}
    if code == 200 and "ce-id" in headers:
        said["event"] = json.loads(Event.from_http(headers, body).to_json())
    if "retry-after" in headers:
        said["retryAfter"] = int(headers["retry-after"])
    if headers.get("content-type") == "application/problem+json":
        said |= json.loads(body)
    return said


class StageProxy(Stage):
    """A proxy to the function at `target`. `behaviour` answers each delivery; by default it forwards it. The history
    has each answer as the bridge got it.
    """

    def __init__(self, name: str, consumes: str, emits: str | None, target: str, history: History) -> None:
        super().__init__(name, consumes, emits, self._behave)
        self.behaviour: Behaviour = StageProxy.forward
        self._target = target
        self._history = history

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(timeout=90, limits=httpx.Limits(max_connections=None))
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        await self._client.aclose()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await super()._serve(reader, cast("asyncio.StreamWriter", ClosingWriter(writer)))
        self._writers.discard(writer)

    async def _behave(self, delivery: Delivery) -> Answer:
        begin, event, said = time.monotonic(), delivery.event, None
        answer: Answer = None
        try:
            answer = await self.behaviour(self, delivery)
        finally:
            if answer is not None and not isinstance(answer, Cut):
                said = int(answer.split(b" ", 2)[1])
            end = None if said is None else time.monotonic()
            address = str(event.data["email"] if isinstance(event.data, dict) else event.data)
            self._history.add(Operation("reply", begin, end, event.id, said, self.name, address))
        return answer

    async def _answer_batch(self, events: list[Event]) -> Answer:
        """Answer each event of a batch as if it had come alone. If the connection ends for one, it ends for all."""
        self.batches.append([event.id for event in events])
        answers = await asyncio.gather(*(self._answer(event, {}) for event in events))
        whole = [answer for answer in answers if answer is not None and not isinstance(answer, Cut)]
        if len(whole) < len(answers):
            return next(answer for answer in answers if answer is None or isinstance(answer, Cut))
        said = [{"id": event.id, **among_many(answer)} for event, answer in zip(events, whole, strict=True)]
        return status(207, json.dumps(said).encode(), content_type="application/json")

    async def forward(self, delivery: Delivery) -> Answer:
        """The function's own answer; the connection is closed where it gave none."""
        headers, body = delivery.event.to_http()
        try:
            answer = await self._client.post(self._target, content=body, headers=headers)
        except httpx.ConnectError:
            return status(503, retry_after="1")
        except httpx.HTTPError:
            return None
        kept = {
            n.replace("-", "_"): v for n, v in answer.headers.items() if n.startswith(("ce-", "retry", "content-type"))
        }
        return status(answer.status_code, answer.content, **kept)

    async def forward_often(self, delivery: Delivery) -> Answer:
        """The same, 1 to 5 times over, concurrently and in random order; one of the good answers if there is one."""

        async def once() -> Answer:
            await asyncio.sleep(random.random() / 20)
            return await self.forward(delivery)

        answers = await asyncio.gather(*(once() for _ in range(random.randint(1, 5))))
        good = [answer for answer in answers if answer and answer.startswith(b"HTTP/1.1 200")]
        return random.choice(good or answers)
