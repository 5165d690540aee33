import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from redis.asyncio import Redis

from gateway.app import create_app
from gateway.settings import GatewaySettings
from milepost.events.event import Event
from milepost.journal import Journal
from milepost.journal.connection import connect
from tests.gateway.samples import LONDON, Published
from tests.servers import ANSWER_WITHIN, Module, Valkey, eventually

FORM = {"email": "ada@example.org", "lat": "51.5074", "long": "-0.1278"}
MULTIPART = {name: (None, value) for name, value in FORM.items()}
KEYED = {"Idempotency-Key": "order-17"}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

Send = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
SENDS: dict[str, Send] = {
    "json": lambda client: client.post("/distance", json=LONDON),
    "urlencoded": lambda client: client.post("/distance", data=FORM),
    "multipart": lambda client: client.post("/distance", files=MULTIPART),
    "form to /": lambda client: client.post("/", data=FORM),
}


@pytest.mark.parametrize("send", SENDS.values(), ids=SENDS)
async def test_submission_is_published_as_one_event(
    client: httpx.AsyncClient, published: Published, send: Send
) -> None:
    answer = await send(client)
    [event] = await published()
    assert answer.headers["location"] == f"/submissions/{event['id']}"
    assert UUID(event["id"]).version == 7
    assert event["source"] == "/milepost/gateway"
    assert event["type"] == "raw_input"
    assert event["data"] == LONDON
    assert datetime.now(UTC) - datetime.fromisoformat(event["time"]) < timedelta(minutes=1)
    assert "traceparent" not in event


async def test_json_is_answered_202_with_id_and_status(client: httpx.AsyncClient) -> None:
    answer = await client.post("/distance", json=LONDON, headers={"Accept": "text/html"})
    assert answer.status_code == 202
    assert answer.json() == {"id": answer.json()["id"], "status": f"/submissions/{answer.json()['id']}"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("body", [{"data": FORM}, {"files": MULTIPART}], ids=["urlencoded", "multipart"])
async def test_a_form_is_answered_201_with_a_page_that_links_to_the_submission(
    client: httpx.AsyncClient, body: dict[str, dict[str, str]]
) -> None:
    answer = await client.post("/distance", **body)  # type: ignore[arg-type]
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert f'href="{answer.headers["location"]}"' in answer.text
    assert "Your place is on its way" in answer.text


async def test_a_form_that_asks_for_json_is_answered_201_with_json(client: httpx.AsyncClient) -> None:
    answer = await client.post("/distance", data=FORM, headers={"Accept": "application/json"})
    assert answer.status_code == 201
    assert answer.json()["status"] == answer.headers["location"]
    answer = await client.post("/distance", data={**FORM, "lat": "91"}, headers={"Accept": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


async def test_blanks_around_form_fields_are_not_part_of_them(client: httpx.AsyncClient, published: Published) -> None:
    answer = await client.post(
        "/distance", data={"email": " ada@example.org\t", "lat": "  51.5074", "long": "-0.1278 "}
    )
    assert answer.status_code == 201
    assert [event["data"] for event in await published()] == [LONDON]


async def test_numbers_may_be_decimal_strings_and_whole_numbers(
    client: httpx.AsyncClient, published: Published
) -> None:
    answer = await client.post("/distance", json={"email": "ada@EXAMPLE.org", "lat": "-90", "long": 180})
    assert answer.status_code == 202
    assert [event["data"] for event in await published()] == [{"email": "ada@example.org", "lat": -90.0, "long": 180.0}]


async def test_a_retry_with_the_same_key_is_one_submission(client: httpx.AsyncClient, published: Published) -> None:
    first = await client.post("/distance", json=LONDON, headers=KEYED)
    again = await client.post("/distance", json=dict(reversed(LONDON.items())), headers=KEYED)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert [event["id"] for event in await published()] == [first.json()["id"]]
    assert UUID(first.json()["id"]).version == 8


async def test_one_key_is_one_id_whether_it_comes_by_header_or_by_field(
    client: httpx.AsyncClient, published: Published
) -> None:
    places = {
        (await client.post("/distance", json=LONDON, headers=KEYED)).headers["location"],
        (await client.post("/distance", data=FORM, headers=KEYED)).headers["location"],
        (await client.post("/distance", data={**FORM, "idempotency_key": "order-17"})).headers["location"],
        (await client.post("/distance", data={**FORM, "idempotency_key": "x"}, headers=KEYED)).headers["location"],
    }
    assert len(places) == 1
    assert len(await published()) == 1


async def test_a_double_click_is_one_submission(client: httpx.AsyncClient, published: Published) -> None:
    body = {**FORM, "idempotency_key": "a-page-view"}
    answers = await asyncio.gather(*(client.post("/distance", data=body) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert len(await published()) == 1


async def test_another_body_under_the_same_key_is_another_submission(
    client: httpx.AsyncClient, published: Published
) -> None:
    await client.post("/distance", json=LONDON, headers=KEYED)
    await client.post("/distance", json={**LONDON, "lat": 51.5}, headers=KEYED)
    assert len(await published()) == 2


@pytest.mark.parametrize("sent", [{"json": LONDON}, {"data": FORM}], ids=["json", "form"])
async def test_two_keys_are_refused(client: httpx.AsyncClient, published: Published, sent: dict[str, Any]) -> None:
    headers = [(b"Idempotency-Key", b"one"), (b"Idempotency-Key", b"two"), (b"Accept", b"application/json")]
    answer = await client.post("/distance", **sent, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Idempotency-Key")
    assert await published() == []


@pytest.mark.parametrize("key", [b"", b"two words", b"k" * 256, "clé".encode(), "clé".encode("latin-1"), b"a\tb"])
async def test_a_key_that_is_none_is_named(client: httpx.AsyncClient, published: Published, key: bytes) -> None:
    headers = [(b"Idempotency-Key", key)]
    answer = await client.post("/distance", json=LONDON, headers=headers)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["Idempotency-Key"]
    answer = await client.post(
        "/distance",
        data={**FORM, "idempotency_key": key.decode("latin-1") + "é"},
        headers={"Accept": "application/json"},
    )
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["idempotency_key"]
    assert await published() == []


@pytest.mark.parametrize("version", ["00", "cc"])
async def test_a_valid_traceparent_goes_on_in_the_event(
    client: httpx.AsyncClient, published: Published, version: str
) -> None:
    sent = version + TRACE[2:]
    await client.post("/distance", json=LONDON, headers={"traceparent": sent})
    assert [event["traceparent"] for event in await published()] == [sent]


async def test_a_traceparent_that_is_not_valid_is_left_out(client: httpx.AsyncClient, published: Published) -> None:
    for sent in (b"00-1-2-3", b"cc" + TRACE[2:].encode() + b"-\x85"):
        answer = await client.post("/distance", json=LONDON, headers=[(b"traceparent", sent)])
        assert answer.status_code == 202
    assert not any("traceparent" in event for event in await published())


async def test_submission_is_published_and_journaled_before_the_response(
    client: httpx.AsyncClient, redis: Redis, published: Published
) -> None:
    async with redis.pubsub() as channel:
        await channel.subscribe("raw_input")
        await channel.get_message(timeout=ANSWER_WITHIN)
        answer = await client.post("/distance", json=LONDON)
        assert len(await published()) == 1
        message = await channel.get_message(timeout=ANSWER_WITHIN)
    assert message
    assert message["data"].startswith(b'{"journalid":"')
    assert json.loads(message["data"])["id"] == answer.json()["id"]


async def test_many_at_once_are_all_kept(client: httpx.AsyncClient, published: Published) -> None:
    few = asyncio.Semaphore(32)  # a busy machine would not send the heads of more within the gateway's time for them

    async def submitted() -> httpx.Response:
        async with few:
            return await client.post("/distance", json=LONDON)

    answers = await asyncio.gather(*(submitted() for _ in range(300)))
    assert {answer.status_code for answer in answers} == {202}
    assert {event["id"] for event in await published()} == {answer.json()["id"] for answer in answers}


async def test_redis_away_is_503_at_once_and_the_form_is_kept(away: Module) -> None:
    async with httpx.AsyncClient(base_url=away.url, timeout=ANSWER_WITHIN) as client:

        async def at_once() -> bool:
            began = time.monotonic()
            assert (await client.post("/distance", json=LONDON)).status_code == 503
            return time.monotonic() - began < 1

        await eventually(at_once, what="two tries, however busy the machine")
        known = "/submissions/0199a3c5-7d1e-7c4a-9f0e-2b5d8c6a4e11"
        for answer in (
            await client.post("/distance", json=LONDON),
            await client.post("/distance", data=FORM, headers={"Accept": "application/json"}),
            await client.get(known),
            await client.get("/readyz"),
        ):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["content-type"] == "application/problem+json"
            assert "127.0.0.1" not in answer.text
        page = await client.post("/distance", data={**FORM, "idempotency_key": "kept"})
        assert page.status_code == 503
        assert int(page.headers["retry-after"]) >= 1
        for kept in ('value="ada@example.org"', 'value="51.5074"', 'value="-0.1278"', 'value="kept"'):
            assert kept in page.text
        assert "does not answer" in page.text
        assert (await client.get("/healthz")).status_code == 200


async def test_a_backlog_over_its_limit_is_503(
    redis: Redis, redis_url: str, tmp_path: Path, published: Published
) -> None:
    env = {"REDIS_URL": redis_url, "BACKLOG_LIMIT": "2"}
    with Module(tmp_path, "gateway", env=env) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=ANSWER_WITHIN) as client:
            answers = [await client.post("/distance", json=LONDON) for _ in range(3)]
            page = await client.post("/distance", data=FORM)
    assert [answer.status_code for answer in answers] == [202, 202, 503]
    assert int(answers[2].headers["retry-after"]) >= 1
    assert page.status_code == 503
    assert 'value="ada@example.org"' in page.text
    assert len(await published()) == 2


async def test_a_fault_of_the_gateway_itself_is_500_and_says_nothing_of_its_inside(redis_url: str) -> None:
    class Faulty(Journal):
        async def publish(self, event: Event) -> bool:
            raise RuntimeError(f"secret {event.id}")

    settings = GatewaySettings(redis_url=redis_url)
    app = create_app(settings, Faulty(connect(settings), settings))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.post("/distance", json=LONDON)
        page = await client.post("/distance", data=FORM)
    assert (answer.status_code, page.status_code) == (500, 500)
    assert answer.headers["content-type"] == "application/problem+json"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "secret" not in answer.text + page.text


async def test_it_takes_submissions_again_once_redis_is_back(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey, Module(tmp_path, "gateway", env={"REDIS_URL": valkey.url}) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=ANSWER_WITHIN) as client:
            first = await client.post("/distance", json=LONDON)
            valkey.kill()
            refused = await client.post("/distance", json=LONDON)
            valkey.start()
            second = await client.post("/distance", json=LONDON)
            assert [first.status_code, refused.status_code, second.status_code] == [202, 503, 202]
            for answer in (first, second):
                assert (await client.get(answer.headers["location"])).status_code == 200
