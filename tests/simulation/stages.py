"""The functions of a simulation: they answer HTTP in the same process, as the seed decides.

    in ─▶ first ─▶ mid ─▶ second ─▶ out, or other
      └─▶ side ─▶ piece, piece, …

`second` answers on one of two channels, and `side` splits: the event's id says which channel, and how many pieces. An
event whose id contains `refused` gets 400 from `first`, one with `poison` always 500: these become dead letters.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from httptools import HttpRequestParser

from tests.simulation.loop import VirtualLoop, Wire

EMITS = {"first": ["mid"], "second": ["out", "other"], "side": ["piece"]}
SPLITS = {"side"}
CONSUMES = {"first": "in", "second": "mid", "side": "in"}

BATCH = "application/cloudevents-batch+json"

SLOWEST = 4.5
"""Seconds that a response may take. It is more than the claim time, so that claims must be renewed."""

SLOW = [(SLOWEST, 200)]
BAD = [(0.01, 500), (0.01, 503), (0.01, 409), (0.5, None), *SLOW, (SLOWEST, 500), (60.0, 200)]
"""How requests fare badly: after how many seconds each is answered, and how; None: the connection is closed instead."""


@dataclass
class Delivery:
    """One event in one request. `end`: when it was answered, or the connection was lost. `status` 0: no answer."""

    stage: str
    id: str
    data: Any
    wire: Wire
    begin: float
    end: float | None = None
    status: int = 0

    @property
    def bridge(self) -> str:
        return self.wire.owner

    @property
    def under_way(self) -> bool:
        """Whether the bridge still waits for the answer. The function learns later that it does not."""
        return self.end is None and not self.wire.is_closing()


class Stages:
    """All three stages. After `calm` every event is taken but those that are to become dead letters."""

    def __init__(self, loop: VirtualLoop, rng: random.Random) -> None:
        self.loop = loop
        self.deliveries: list[Delivery] = []
        self.overlaps: list[tuple[Delivery, Delivery]] = []
        self.trouble = 0.0
        """Fraction of requests that fare badly."""
        self.bad = BAD
        self._rng = rng
        for stage in EMITS:
            loop.network.listeners[host_of(stage)] = lambda wire, stage=stage: _Session(self, stage, wire)  # type: ignore[misc]

    def begin(self, stage: str, events: Sequence[Any], wire: Wire) -> list[Delivery]:
        begun = [Delivery(stage, event["id"], event["data"], wire, self.loop.time()) for event in events]
        for delivery in begun:
            self.overlaps += [
                (other, delivery)
                for other in self.deliveries
                if other.under_way and (other.stage, other.id) == (stage, delivery.id)
            ]
        self.deliveries += begun
        return begun

    def answer(self, stage: str, ids: Sequence[str]) -> tuple[float, int | None]:
        """Return after how many seconds a request is answered, and how (see BAD)."""
        if stage == "first" and any("refused" in event_id for event_id in ids):
            return 0.01, 400
        if stage == "first" and any("poison" in event_id for event_id in ids):
            return 0.01, 500
        if self._rng.random() >= self.trouble:
            return self._rng.uniform(0.001, 0.1), 200
        return self._rng.choice(self.bad)


def channel_of(event_id: str) -> str:
    """The channel on which `second` answers this event."""
    return EMITS["second"][sum(event_id.encode()) % 2]


def pieces_of(event_id: str) -> list[str]:
    """The ids of the pieces into which `side` splits this event, perhaps none."""
    return [f"{event_id}/{place}" for place in range(sum(event_id.encode()) % 4)]


def host_of(stage: str) -> str:
    return f"{stage}.sim"


class _Session:
    """The function's end of a connection."""

    def __init__(self, stages: Stages, stage: str, wire: Wire) -> None:
        self._stages = stages
        self._stage = stage
        self._wire = wire
        self._body = b""
        self._begun: list[Delivery] = []
        self._parser = HttpRequestParser(self)

    def received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        body, self._body = json.loads(self._body), b""
        events = body if isinstance(body, list) else [body]
        ids = [event["id"] for event in events]
        if self._wire.is_closing():  # the bridge has given it up meanwhile
            return
        self._begun = self._stages.begin(self._stage, events, self._wire)
        after, status = self._stages.answer(self._stage, ids)
        self._stages.loop.call_later(after, self._answer, self._begun, body, status)

    def _answer(self, begun: list[Delivery], body: Any, status: int | None) -> None:
        if begun is not self._begun:
            return  # the connection was lost meanwhile
        self._end()
        if status is None:
            self._wire.hang_up()
            return
        for delivery in begun:
            delivery.status = status
        self._wire.reply(self._response(status, body))

    def _response(self, status: int, body: Any) -> bytes:
        if status != 200:
            return _written(status, b"")
        if self._stage not in SPLITS:
            kind = BATCH if isinstance(body, list) else "application/cloudevents+json"
            answers = [self._answer_to(event) for event in body] if isinstance(body, list) else self._answer_to(body)
            return _written(200, json.dumps(answers).encode(), kind)
        if isinstance(body, list):
            items = [{"id": event["id"], "status": 200, "events": _pieces(event)} for event in body]
            return _written(207, json.dumps(items).encode(), "application/json")
        return _written(200, json.dumps(_pieces(body)).encode(), BATCH) if _pieces(body) else _written(204, b"")

    def _answer_to(self, event: Any) -> Any:
        return {**event, "type": channel_of(event["id"]) if self._stage == "second" else EMITS[self._stage][0]}

    def _end(self) -> None:
        for delivery in self._begun:
            delivery.end = self._stages.loop.time()
        self._begun = []

    def lost(self) -> None:
        self._end()


def _pieces(event: Any) -> list[Any]:
    return [{**event, "id": piece, "type": "piece"} for piece in pieces_of(event["id"])]


def _written(status: int, body: bytes, kind: str = "text/plain") -> bytes:
    wait = "Retry-After: 1\r\n" if status == 409 else ""
    length = "" if status == 204 else f"Content-Length: {len(body)}\r\n"
    return f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{wait}{length}\r\n".encode() + body
