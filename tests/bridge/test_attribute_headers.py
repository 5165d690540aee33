"""Attributes in headers, as bytes on a socket: to a bridge, to a function, and in the replies of functions."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from milepost.events.event import Event
from tests import sdks
from tests.bridge.rig import Delivery, Rig, status
from tests.fuzz.link import Link, Reply, request
from tests.servers import Function, eventually

JSON = (b"content-type", b"application/json")


def binary(**attributes: bytes) -> bytes:
    """A request in binary mode, each attribute with these bytes as its value."""
    given = {"specversion": b"1.0", "id": b"1", "source": b"/raw", "type": b"in", **attributes}
    headers = [(b"ce-" + name.encode(), value) for name, value in given.items()]
    return request("/", [*headers, JSON], b"{}")


async def ask(port: int, sent: bytes) -> Reply:
    link = Link(port)
    try:
        return await link.ask(sent)
    finally:
        await link.close()


@pytest.fixture
async def port(rig: Rig) -> int:
    """The port of a bridge process that delivers `in` and `raw_input` to stages of this test."""
    await rig.stage("in", "in")
    await rig.stage("places", "raw_input")
    return (await rig.running()).port


async def test_ids_that_differ_are_different_events_at_the_bridge(rig: Rig, port: int) -> None:
    sent = {
        b'5"': '5"',
        b"5": "5",
        b'"5': '"5',
        rb'"5\""': '5"',
        b"5%22": '5"',
        rb"a\b": r"a\b",
        "é\xa0".encode(): "é\xa0",
    }
    for value in sent:
        assert (await ask(port, binary(id=value))).status == 202
    await eventually(lambda: set(rig.stages[0].ids) == set(sent.values()))
    assert sorted(rig.stages[0].ids) == sorted(set(sent.values())), "the same id again is a duplicate"


BAD_ATTRIBUTES = [
    (binary(id=b"K\xf6ln"), "ce-id: not UTF-8; percent-encode it"),
    (binary(subject=b"%C0%A0"), "ce-subject: not UTF-8 after percent-decoding"),
    (binary(subject=b"a%0Ab"), "subject: must not hold control characters"),
    (binary(**{"bad-name": b"x"}), "'bad-name': names of attributes consist of a-z and 0-9"),
    (binary(specversion=b"0.3"), "specversion: must be 1.0"),
    (binary(id=b"x" * 257), "id: longer than 256"),
    (binary(time=b"yesterday"), "time: not an RFC 3339 timestamp"),
    (binary().replace(b"ce-source: /raw\r\n", b""), "source: missing"),
    (binary().replace(b"ce-id: 1", b"Ce-Id: 1\r\nCE-ID: 2"), "ce-id: given twice"),
    (binary().replace(b"application/json", b"text/plain"), "datacontenttype: Milepost carries JSON"),
]
"""A request, and how the answer begins."""


async def test_a_bad_attribute_is_a_400_that_names_it(port: int) -> None:
    for sent, word in BAD_ATTRIBUTES:
        reply = await ask(port, sent)
        assert (reply.status, reply.media) == (400, "application/problem+json"), word
        assert json.loads(reply.body)["detail"].startswith(word)


async def test_events_of_other_sdks_go_through_the_bridge(rig: Rig, port: int) -> None:
    for number, sent in enumerate(sdks.EVENTS):
        headers = [(name, value.replace(b"order", b"%d" % number)) for name, value in sent.raw_headers]
        body = sent.body.replace('"id":"order', f'"id":"{number}').replace('"id": "order', f'"id": "{number}')
        reply = await ask(port, request("/", headers, body.encode()))
        assert reply.status == 202, (sent.sdk, reply)
    await eventually(lambda: len(rig.stages[1].received) == len(sdks.EVENTS))
    found = {
        (event.id.partition(" ")[2], event.time, event.subject, len(event.extensions))
        for event in rig.stages[1].received
    }
    meant = {
        (sent.event.id.partition(" ")[2], sent.event.time, sent.event.subject, len(sent.event.extensions))
        for sent in sdks.EVENTS
    }
    assert found == meant


@pytest.fixture
async def function(tmp_path: Path) -> AsyncIterator[Function]:
    with Function(tmp_path, "distance") as function:
        yield function


async def test_events_of_other_sdks_are_taken_by_a_function(function: Function) -> None:
    for sent in sdks.EVENTS:
        reply = await ask(function.port, request("/", sent.raw_headers, sent.body.encode()))
        assert reply.status == 200, (sent.sdk, reply)
        assert Event.from_http(reply.headers, reply.body).id == sent.event.id
    for sent in sdks.BATCHES:
        reply = await ask(function.port, request("/", sent.raw_headers, sent.body.encode()))
        assert reply.status == 200, (sent.sdk, reply)
        assert len(json.loads(reply.body)) == 2


@pytest.mark.parametrize(
    ("value", "subject"),
    [
        ("Zürich €".encode(), "Zürich €"),
        (b"Z%C3%BCrich%20%E2%82%AC", "Zürich €"),
        (rb'"a \"b\""', 'a "b"'),
        (b'5"', '5"'),
    ],
)
async def test_headers_of_a_reply_are_read_the_same_way(rig: Rig, value: bytes, subject: str) -> None:
    def answer(delivery: Delivery) -> bytes:
        head = b"ce-specversion: 1.0\r\nce-id: %b\r\nce-source: /me\r\nce-type: out\r\n" % delivery.event.id.encode()
        plain = status(200, b"1", content_type="application/json")
        return plain.replace(b"content-type", head + b"Ce-Subject: " + value + b"\r\ncontent-type")

    await rig.stage("stage", "in", "out", answer)
    watcher = await rig.stage("watcher", "out")
    await rig.bridge()
    await rig.publish("in", "1", data=1)
    await eventually(lambda: [event.subject for event in watcher.received] == [subject])


async def test_a_reply_whose_header_is_not_utf8_is_refused_with_that_reason(rig: Rig) -> None:
    def answer(_: Delivery) -> bytes:
        plain = status(200, b"1", ce_specversion="1.0", ce_source="/me", ce_type="out", content_type="application/json")
        return plain.replace(b"content-type", b"ce-id: K\xf6ln\r\ncontent-type")

    await rig.stage("stage", "in", "out", answer)
    await rig.bridge({"retry": 0})
    await rig.publish("in", "1", data=1)
    await eventually(lambda: rig.dead("stage"))
    (letter,) = await rig.dead("stage")
    assert letter.reason == "unusable reply: ce-id: not UTF-8; percent-encode it"
