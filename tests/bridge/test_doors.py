"""The bridge's HTTP endpoints, over HTTP."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from milepost.bridge.app import create_app
from milepost.bridge.bridge import Bridge
from milepost.events.event import Event
from tests.bridge.rig import Rig, ready, subscribed, value
from tests.servers import WITHIN, Valkey, eventually

STRUCTURED = {"content-type": "application/cloudevents+json"}


def structured(id: str = "1", channel: str = "in", data: Any = 1, **more: Any) -> bytes:
    fields = {"specversion": "1.0", "id": id, "source": "/door", "type": channel, "data": data, **more}
    return json.dumps(fields).encode()


def binary(id: str = "1", channel: str = "in") -> dict[str, str]:
    headers = {"ce-specversion": "1.0", "ce-id": id, "ce-source": "/door", "ce-type": channel}
    return {**headers, "content-type": "application/json"}


def door(bridge: Bridge) -> httpx.AsyncClient:
    """A client of this bridge's application, which the test has started itself."""
    transport = httpx.ASGITransport(app=create_app(bridge, failed=lambda: None))
    return httpx.AsyncClient(transport=transport, base_url="http://bridge")


@pytest.fixture
async def client(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    await rig.stage("stage", "in", "out")
    async with door(await rig.bridge()) as client:
        yield client


async def test_a_structured_event_is_published_and_answered_202(rig: Rig, client: httpx.AsyncClient) -> None:
    answer = await client.post("/", content=structured(data={"miles": 2216.0742916592476}), headers=STRUCTURED)
    assert (answer.status_code, answer.content) == (202, b"")
    await eventually(lambda: rig.stages[0].count["1"] == 1)
    assert rig.stages[0].received[0].data == {"miles": 2216.0742916592476}


async def test_a_binary_event_is_published_and_answered_202(rig: Rig, client: httpx.AsyncClient) -> None:
    answer = await client.post("/", content=b'{"a":1}', headers=binary())
    assert answer.status_code == 202
    await eventually(lambda: rig.stages[0].count["1"] == 1)
    assert rig.stages[0].received[0].data == {"a": 1}


async def test_a_duplicate_is_answered_202_and_not_journaled_twice(rig: Rig, client: httpx.AsyncClient) -> None:
    async with subscribed(rig.redis, "in") as heard:
        for _ in range(3):
            assert (await client.post("/", content=structured(), headers=STRUCTURED)).status_code == 202
        assert (await client.post("/", content=structured("2"), headers=STRUCTURED)).status_code == 202
        await eventually(lambda: [message["id"] for message in heard] == ["1", "2"])
    await eventually(lambda: rig.settled(rig.stages[0]))
    assert rig.stages[0].count == {"1": 1, "2": 1}


async def test_journalid_is_stripped_at_the_door(rig: Rig, client: httpx.AsyncClient) -> None:
    async with subscribed(rig.redis, "in") as heard:
        await client.post("/", content=structured(journalid="9-9"), headers=STRUCTURED)
        await client.post("/", content=b"1", headers={**binary("2"), "ce-journalid": "9-9"})
        await eventually(lambda: len(heard) == 2)
    assert all(message["journalid"] != "9-9" for message in heard)


@pytest.mark.parametrize(
    ("headers", "body", "word"),
    [
        ({}, b"", "neither ce- headers"),
        ({"content-type": "application/json"}, b"{}", "neither ce- headers"),
        (STRUCTURED, b"", "not JSON"),
        (STRUCTURED, b"[]", "object"),
        (STRUCTURED, b"{}", "specversion"),
        (STRUCTURED, b'{"specversion":"1.0","id":"","source":"/x","type":"in"}', "id"),
        ({"content-type": "application/cloudevents-batch+json"}, b"[]", "one event"),
        (binary(), b"{", "not JSON"),
        ({**binary(), "content-type": "application/xml"}, b"<a/>", "JSON"),
    ],
)
async def test_body_that_is_no_cloud_event_is_400(
    client: httpx.AsyncClient, headers: dict[str, str], body: bytes, word: str
) -> None:
    answer = await client.post("/", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert word in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"), [("GET", "/", 405, "POST"), ("POST", "/nowhere", 404, None)]
)
async def test_where_nothing_is_says_so_as_a_problem(
    client: httpx.AsyncClient, method: str, path: str, status: int, allowed: str | None
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.get("allow") == allowed


@pytest.mark.parametrize(
    ("headers", "body"),
    [(binary(), b""), (binary(), b"null"), (STRUCTURED, structured(data=None)), (binary(), b" \r\nnull ")],
    ids=["binary", "binary null", "structured null", "binary null with blanks"],
)
async def test_an_event_without_data_for_a_function_is_400_and_its_retry_with_data_is_taken(
    rig: Rig, client: httpx.AsyncClient, headers: dict[str, str], body: bytes
) -> None:
    for _ in range(2):
        answer = await client.post("/", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("data: missing")
    assert (await client.post("/", content=structured(data=False), headers=STRUCTURED)).status_code == 202
    await eventually(lambda: [event.data for event in rig.stages[0].received] == [False])


async def test_an_event_without_data_for_receivers_of_others_alone_is_taken(rig: Rig) -> None:
    ours, hook = await rig.stage("ours", "in"), await rig.stage("hook", "told")
    both, beside = await rig.stage("both", "mixed"), await rig.stage("beside", "mixed")
    routes = [*rig.routes([ours, both]), *rig.routes([hook, beside], external=True)]
    async with door(await rig.bridge(routes=routes)) as client:
        for channel, status in (("told", 202), ("nobody", 202), ("mixed", 400), ("in", 400)):
            answer = await client.post("/", content=b"", headers=binary(channel, channel))
            assert answer.status_code == status, channel
    await eventually(lambda: hook.ids == ["told"])
    assert hook.received[0].data is None


async def test_more_than_a_megabyte_is_413(rig: Rig, client: httpx.AsyncClient) -> None:
    answer = await client.post("/", content=structured(data="x" * 1_000_000), headers=STRUCTURED)
    assert answer.status_code == 413
    assert not await rig.journaled("in")


async def test_event_that_grows_over_a_megabyte_when_written_is_413(rig: Rig, client: httpx.AsyncClient) -> None:
    body = json.dumps("é" * 400_000, ensure_ascii=False).encode()
    assert len(body) < 1_000_000
    answer = await client.post("/", content=body, headers=binary())
    assert answer.status_code == 413
    assert not await rig.journaled("in")


async def test_over_the_backlog_limit_is_503_with_retry_after_while_hops_go_on(rig: Rig) -> None:
    go = asyncio.Event()
    stage = await rig.stage("stage", "in", "out")
    watcher = await rig.stage("watcher", "out")

    stage.answer_after(go)
    bridge = await rig.bridge(backlog_limit=3)
    async with door(bridge) as client:
        for number in range(3):
            answer = await client.post("/", content=structured(str(number)), headers=STRUCTURED)
            assert answer.status_code == 202
        answer = await client.post("/", content=structured("over"), headers=STRUCTURED)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "backlog" in answer.json()["detail"]
        go.set()
        await eventually(lambda: len(watcher.count) == 3)

        async def taken() -> bool:
            return (await client.post("/", content=structured("over"), headers=STRUCTURED)).status_code == 202

        await eventually(taken)


async def test_a_redis_that_is_away_is_503_with_retry_after_at_once(rig: Rig, tmp_path: Path) -> None:
    await rig.stage("stage", "in", "out")
    with Valkey(tmp_path) as valkey:
        process = await rig.running(REDIS_URL=valkey.url)
        valkey.kill()
        async with httpx.AsyncClient(base_url=process.url, timeout=WITHIN) as client:

            async def at_once() -> bool:
                began = time.monotonic()
                assert (await client.post("/", content=structured(), headers=STRUCTURED)).status_code == 503
                return time.monotonic() - began < 1

            await eventually(at_once, what="two tries, however busy the machine")
            answer = await client.post("/", content=structured(), headers=STRUCTURED)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert (await client.get("/healthz")).status_code == 200
            unready = await client.get("/readyz")
            assert unready.status_code == 503
            for told in (answer.text, unready.text):
                assert str(valkey.port) not in told, "where Redis is, is for the log"
            for outcome in ("not-accepted", "not-ready"):
                lines = [line for line in process.log.splitlines() if f"outcome={outcome}" in line]
                assert lines
                assert all(str(valkey.port) in line for line in lines)
            await asyncio.to_thread(valkey.start)
            await ready(process)
            assert (await client.post("/", content=structured(), headers=STRUCTURED)).status_code == 202
            await eventually(lambda: rig.stages[0].count["1"] == 1)


async def test_replies_are_announced_and_never_journaled(rig: Rig) -> None:
    sink = await rig.stage("stage", "in", "out")
    await rig.stage("watcher", "out")
    bridge = await rig.bridge(delivery="broker", k_sink=sink.url)
    async with door(bridge) as client, subscribed(rig.redis, "out") as heard:
        for _ in range(2):
            answer = await client.post("/replies", content=structured("1", "out"), headers=STRUCTURED)
            assert answer.status_code == 202
        await client.post("/replies", content=structured("2", "out"), headers=STRUCTURED)
        await eventually(lambda: [message["id"] for message in heard] == ["1", "2"])
        assert list(await rig.journal.status("1")) == ["out"]
        await rig.publish("out", "3")
        await eventually(lambda: sink.count["3"])
    assert set(sink.count) == {"3"}


@pytest.mark.parametrize("path", ["/replies", "/dead/stage"])
async def test_in_direct_mode_the_brokers_doors_are_shut(rig: Rig, client: httpx.AsyncClient, path: str) -> None:
    assert (await client.post(path, content=structured("1"), headers=STRUCTURED)).status_code == 404
    assert await rig.journal.publish(Event(id="1", source="/test", type="in")), "nothing marked it as seen"


async def test_no_door_leads_to_the_channel_of_the_lease(rig: Rig, client: httpx.AsyncClient) -> None:
    answer = await client.post("/", content=structured("1", "{milepost}:lease"), headers=STRUCTURED)
    assert answer.status_code == 400
    assert "type" in answer.json()["detail"]


async def test_the_probes_and_the_metrics(rig: Rig, client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).text == "ok\n"
    assert (await client.get("/readyz")).status_code == 200
    await client.post("/", content=structured(), headers=STRUCTURED)
    await client.post("/", content=b"", headers=STRUCTURED)
    await eventually(lambda: value(rig.bridges[0], "deliveries_total", stage="stage", outcome="delivered") == 1)
    await eventually(lambda: value(rig.bridges[0], "leading") == 1)
    metrics = (await client.get("/metrics")).text
    assert 'milepost_accepted_total{door="events",status="202"} 1.0' in metrics
    assert 'milepost_accepted_total{door="events",status="400"} 1.0' in metrics
    assert 'milepost_deliveries_total{outcome="delivered",stage="stage"} 1.0' in metrics
    assert "milepost_leading 1.0" in metrics
    assert "_created" not in metrics, "a second series for each counter"


async def test_a_bridge_that_is_not_ready_says_so(rig: Rig) -> None:
    await rig.stage("stage", "in", "out")
    bridge = Bridge(rig.settings())
    rig.bridges.append(bridge)
    async with door(bridge) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"


async def test_an_event_for_an_unknown_channel_is_kept(rig: Rig, client: httpx.AsyncClient) -> None:
    await client.post("/", content=structured("1", "nobody"), headers=STRUCTURED)
    assert await rig.journaled("nobody") == ["1"]
    assert Event.from_json(structured("1", "nobody")).type == "nobody"
