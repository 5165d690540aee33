"""Why a component is not ready."""

import asyncio
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from milepost.cli.local.readiness import fault_of
from tests.servers import HOST


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (200, b"", None),
        (503, b'{"detail": "MongoDB: AutoReconnect"}', "answers 503: MongoDB: AutoReconnect"),
        (404, b"nothing here", "answers 404"),
        (500, b'["detail"]', "answers 500"),
    ],
)
async def test_fault_of_a_function_has_the_detail_of_its_problem(status: int, body: bytes, fault: str | None) -> None:
    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer((HOST, 0), Answering) as server:
        answering = Thread(target=server.handle_request)
        answering.start()
        assert await fault_of(f"http://{HOST}:{server.server_port}/") == fault
        await asyncio.to_thread(answering.join)
