"""Events of other SDKs, read by the codec. `tests/bridge/test_attribute_headers.py` sends them to real processes."""

import pytest
from starlette.datastructures import Headers

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
