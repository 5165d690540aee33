"""The three processes that take requests, each with a good request to it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.servers import HOST, Function, Module, Server

PLACE = {"email": "ada@example.org", "lat": 51.5074, "long": -0.1278}
EVENT = {"specversion": "1.0", "source": "/raw", "type": "raw_input", "data": PLACE}
STRUCTURED = b"content-type: application/cloudevents+json"
JSON = b"content-type: application/json"


@dataclass(frozen=True)
class Door:
    """A process, where it takes a POST, a good body for it with its content type, and the status of its answer."""

    server: Server
    path: str
    content_type: bytes
    body: bytes
    expected: int
    alive: str

    @property
    def port(self) -> int:
        return self.server.port


@pytest.fixture(params=["gateway", "bridge", "function"], scope="module")
def door(request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    routes = json.dumps([{"name": "distance", "consumes": "raw_input", "emits": None, "url": f"http://{HOST}:1"}])
    event = json.dumps({**EVENT, "id": folder.name}).encode()
    match request.param:
        case "gateway":
            server: Server = Module(folder, "gateway", env={"REDIS_URL": redis_url})
            made = Door(server, "/distance", JSON, json.dumps(PLACE).encode(), 202, "/healthz")
        case "bridge":
            server = Module(folder, "milepost.bridge", env={"REDIS_URL": redis_url, "ROUTES": routes})
            made = Door(server, "/", STRUCTURED, event, 202, "/healthz")
        case _:
            server = Function(folder, "distance")
            made = Door(server, "/", STRUCTURED, event, 200, "/")
    with server:
        yield made
