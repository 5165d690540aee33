"""Events of other SDKs, read by the codec, and the Python SDK's class.

`tests/bridge/test_attribute_headers.py` sends the events to real processes.
"""

import cloudevents
import pytest
from cloudevents.conversion import to_structured
from cloudevents.http import CloudEvent, from_http
from packaging.version import Version
from starlette.datastructures import Headers

from milepost.errors import EventError
from milepost.events.batch import is_batch, read_batch
from milepost.events.event import Event
from tests import sdks
from tests.sdks import Sent


@pytest.mark.parametrize("sent", sdks.EVENTS, ids=lambda sent: sent.sdk)
def test_an_event_of_another_sdk_is_read_as_it_was_meant(sent: Sent) -> None:
    raw = [(name.lower(), value) for name, value in sent.raw_headers]  # as an ASGI server hands them on
    assert Event.from_http(Headers(raw=raw), sent.body.encode()) == sent.event


@pytest.mark.parametrize("sent", sdks.BATCHES, ids=lambda sent: sent.sdk)
def test_a_batch_of_another_sdk_is_read(sent: Sent) -> None:
    assert is_batch(sent.headers["Content-Type"])
    first, second = read_batch(sent.body.encode())
    assert (first.data, second.data) == (sdks.DATA, sdks.DATA)


def test_sdk_has_a_known_version() -> None:
    """functions-framework pins them; another major version has another class."""
    assert Version("1.11") <= Version(cloudevents.__version__) < Version("2")


@pytest.mark.parametrize(
    "event",
    [
        Event(id="1", source="/s", type="t"),
        Event(id="1", source="/s", type="t", data=[1.5, {"a": None}], time="2026-05-04T03:02:01Z"),
        Event(id='\u00fc "1"', source="/s", type="t", data="text", subject="s", dataschema="https://example.org/s"),
        Event(
            id="1",
            source="/s",
            type="t",
            data=0,
            extensions={"mine": "x", "retries": 3, "urgent": True},
        ),
    ],
)
def test_event_survives_conversion_to_the_sdk_and_back(event: Event) -> None:
    sdk_event = event.to_sdk()
    assert type(sdk_event) is CloudEvent
    assert sdk_event.get_data() == event.data
    assert Event.from_sdk(sdk_event) == event
    if event.time:  # without one the SDK makes up a time when it reads
        headers, body = to_structured(sdk_event)
        assert Event.from_json(body) == event
        assert Event.from_sdk(from_http(headers, body)) == event


def test_values_that_the_sdk_fills_in_are_kept() -> None:
    sdk_event = CloudEvent({"source": "/s", "type": "t"}, b'{"number": 1}')
    event = Event.from_sdk(sdk_event)
    assert (event.id, event.time) == (sdk_event["id"], sdk_event["time"])
    assert event.data == {"number": 1}
    assert Event.from_sdk(CloudEvent({"source": "/s", "type": "t"}, b"")).data is None


@pytest.mark.parametrize(
    ("attributes", "data", "told"),
    [
        ({"id": ""}, None, "id: must not be empty"),
        ({"source": "not a reference"}, None, "source: not a URI reference"),
        ({"specversion": "0.3"}, None, "specversion: must be 1.0"),
        ({"datacontenttype": "text/xml"}, "<a/>", "datacontenttype: Milepost carries JSON"),
        ({}, b"{", "data: not JSON"),
        ({}, float("nan"), "data: not JSON"),
        ({}, {1, 2}, "data: not JSON"),
    ],
)
def test_invalid_event_of_the_sdk_is_refused(attributes: dict[str, str], data: object, told: str) -> None:
    with pytest.raises(EventError, match=told):
        Event.from_sdk(CloudEvent({"source": "/s", "type": "t", **attributes}, data))
