"""The traces of a pipeline of real processes, as a collector gets them (OTLP over HTTP)."""

import gzip
import signal
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from milepost import stage_values
from tests.pipeline.conftest import Pipeline
from tests.servers import ANSWER_WITHIN, HOST, ROOT, Function

SPANS = 1 + 2 * len(stage_values.read(ROOT))
"""Of a submission: the gateway's, and for each stage a delivery and its own."""


class Collector:
    """Takes spans. Each is (service, name, trace id, span id, parent, ids of the spans it is linked to)."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, bytes, bytes, bytes, list[bytes]]] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                spans.extend(read(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{HOST}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def read(body: bytes) -> Iterator[tuple[str, str, bytes, bytes, bytes, list[bytes]]]:
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    for resource in request.resource_spans:
        named = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                links = [link.span_id for link in span.links]
                yield named["service.name"], span.name, span.trace_id, span.span_id, span.parent_span_id, links


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def test_submission_has_one_trace_from_gateway_to_email(collector: Collector, tmp_path: Path) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with Pipeline(tmp_path / "data", env=env) as pipeline:
        pipeline.ready()
        pipeline.run("send", "ada@example.org", "51.5074", "-0.1278")
        pipeline.wait_for(lambda: len(collector.spans) >= SPANS, what="a span of each")
        assert pipeline.end() == 0
    assert len({trace for _, _, trace, *_ in collector.spans}) == 1
    by_name = {(service, name): (span, parent, links) for service, name, _, span, parent, links in collector.spans}
    root, above, _ = by_name["gateway", "send raw_input"]
    assert above == b""
    hops = {(span, parent) for service, _, _, span, parent, _ in collector.spans if service == "bridge"}
    for stage, channel in (("distance", "raw_input"), ("store", "calculated_distance"), ("email", "user:email")):
        _, hop, links = by_name[stage, f"process {channel}"]
        assert (hop, root) in hops
        assert links == [root]
    assert len(collector.spans) == len({span for _, _, _, span, _, _ in collector.spans}) == SPANS


def answered(distance: Function) -> int:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/tests", "ce-type": "raw_input"}
    data = {"email": "a@example.org", "lat": 1, "long": 2}
    return httpx.post(distance.url, headers=headers, json=data, timeout=ANSWER_WITHIN).status_code


def test_stopped_function_exports_its_waiting_spans(collector: Collector, tmp_path: Path) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    source = tmp_path / "main.py"  # with patience for a collector, this process, that the machine may have stopped
    source.write_text(
        "from functions.distance.main import main\nfrom milepost.observe import traces\n\ntraces.FLUSH_WITHIN = 60.0\n"
    )
    with Function(tmp_path, "distance", env=env, source=source) as distance:
        assert answered(distance) == 200
        assert distance.stop(within=90) == -signal.SIGTERM
    assert [name for _, name, *_ in collector.spans] == ["process raw_input"]


def test_function_stops_although_the_collector_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as silent:  # takes connections, and never answers
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{silent.getsockname()[1]}"}
        with Function(tmp_path, "distance", env=env) as distance:
            assert answered(distance) == 200
            assert distance.stop() == -signal.SIGTERM
