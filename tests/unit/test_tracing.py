"""Traces are on only where they are asked for, and cost nothing elsewhere."""

import json
import subprocess
import sys

import pytest

from milepost.errors import ConfigurationError
from milepost.observe import traces
from tests.servers import ROOT, WITHIN

COLLECTOR = "http://127.0.0.1:9"


def in_a_process(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=WITHIN
    )


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_nothing_is_imported_unless_traces_are_asked_for(environment: dict[str, str]) -> None:
    code = (
        "import sys; from milepost.observe import traces; import milepost.function.stage; print(traces.tracer('store'),"
        " [name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    assert in_a_process(code, **environment).stdout == "None []\n"


def test_unknown_exporter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_EXPORTER: must be otlp, console or none"):
        traces.tracer("zipkin")


def test_endpoint_with_a_password_that_is_not_encoded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://ada:12/secret@collector:4318")
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_ENDPOINT: must look like http://") as raised:
        traces.tracer("refused")
    assert "secret" not in str(raised.value)


def test_missing_sdk_is_logged_once() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None; from milepost.observe import traces\n"
        "print(traces.tracer('store'), traces.tracer('store'))"
    )
    done = in_a_process(code, OTEL_EXPORTER_OTLP_ENDPOINT=COLLECTOR)
    assert done.stdout == "None None\n"
    (line,) = done.stderr.splitlines()
    assert "outcome=untraced" in line
    assert "the extra `otel` is not installed" in line


@pytest.mark.parametrize(("named", "service"), [({}, "store"), ({"OTEL_SERVICE_NAME": "mine"}, "mine")])
def test_span_has_its_components_service_name(named: dict[str, str], service: str) -> None:
    code = (
        "from milepost.observe import traces; from milepost.events.event import Event\n"
        "with traces.tracer('store').send(Event(id='1', source='/s', type='t')) as event: pass\n"
        "print(event.extensions['traceparent'])"
    )
    done = in_a_process(code, OTEL_TRACES_EXPORTER="console", **named)
    assert done.returncode == 0, done.stderr
    traceparent, text = done.stdout.splitlines()
    span = json.loads(text)
    assert span["name"] == "send t"
    assert span["resource"]["attributes"]["service.name"] == service
    assert traceparent.startswith(f"00-{span['context']['trace_id'][2:]}-{span['context']['span_id'][2:]}-")
