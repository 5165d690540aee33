"""/ops: it is for operators with the token, and shows the state of Redis."""

import asyncio
import base64
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from redis.asyncio import Redis

from gateway.message_stream import LONGEST_DATA, LOOKED_AT, MOST_STREAMS, line
from gateway.operators import WRONG_TRIES
from gateway.settings import GatewaySettings
from milepost.errors import ConfigurationError
from milepost.events.event import Event
from milepost.journal import Journal, Wiring, keys
from milepost.journal.stats import SECONDS, Counts, Slot, write
from tests.gateway.operating import BASIC, BEARER, ROUTES, TOKEN, buried, serve
from tests.gateway.samples import LONDON
from tests.gateway.test_page import Tags
from tests.servers import ANSWER_WITHIN, WITHIN, Module, eventually

# Who is let in


@pytest.mark.parametrize("path", ["/ops", "/ops.json", "/ops/messages", "/ops/distance/replay", "/ops/"])
async def test_ops_is_404_without_a_token(client: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await client.request(method, path, headers=BEARER)
        assert answer.status_code == 404
        assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize("path", ["/ops", "/ops.json", "/ops/messages"])
async def test_request_without_a_token_is_asked_for_it(stranger: httpx.AsyncClient, path: str) -> None:
    answer = await stranger.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_buttons_ask_for_the_token(stranger: httpx.AsyncClient, journal: Journal) -> None:
    [entry] = await buried(journal)
    for action in ("replay", "drop"):
        answer = await stranger.post(f"/ops/distance/{action}", data={"entry": entry})
        assert answer.status_code == 401
    assert len(await journal.admin.dead_letters("distance")) == 1


@pytest.mark.parametrize("headers", [BEARER, BASIC, {"authorization": BEARER["authorization"].replace("B", "b")}])
async def test_the_token_opens_it(stranger: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await stranger.get("/ops", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer",
        "Basic",
        "Basic %%%",
        f"Basic {base64.b64encode(TOKEN.encode()).decode()}",
        f"Basic {base64.b64encode(f'{TOKEN}:'.encode()).decode()}",
        f"Digest {TOKEN}",
        TOKEN,
        "Bearer \xff",
    ],
)
async def test_other_credentials_are_refused(stranger: httpx.AsyncClient, value: str) -> None:
    answer = await stranger.get("/ops", headers={"authorization": value.encode("latin-1")})
    assert answer.status_code == 401


async def test_too_many_wrong_tokens_are_refused_and_lock_nobody_out(stranger: httpx.AsyncClient) -> None:
    most = int(WRONG_TRIES.partition("/")[0])
    wrong = {"authorization": "Bearer wrong"}
    answers = [await stranger.get("/ops", headers=wrong) for _ in range(most + 1)]
    assert [answer.status_code for answer in answers] == [401] * most + [429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert (await stranger.get("/ops", headers=BEARER)).status_code == 200
    assert (await stranger.get("/ops")).status_code == 401


def test_a_token_that_could_be_guessed_is_refused_at_the_start(tmp_path: Path) -> None:
    process = Module(tmp_path, "gateway", env={"OPS_TOKEN": "short"}).launch()
    assert process.process
    assert process.process.wait(WITHIN) == 2
    assert "OPS_TOKEN: must have 16 visible ASCII characters" in process.log
    assert "short" not in process.log
    for token in ("short", "has a blank in its middle", "ünïcödé-ünïcödé-ünïcödé"):
        with pytest.raises(ConfigurationError, match="OPS_TOKEN: must have 16 visible ASCII characters") as refused:
            GatewaySettings.read(ops_token=token)
        assert token not in str(refused.value)


# The page


async def test_before_any_bridge_it_says_so(operator: httpx.AsyncClient) -> None:
    page = await operator.get("/ops")
    assert "No bridge has written its stages into the table yet" in page.text
    assert (await operator.get("/ops.json")).json() == {"backlog": 0, "leading": False, "dead": {}, "stages": []}


async def test_how_a_stage_did_in_the_last_minute(operator: httpx.AsyncClient, journal: Journal) -> None:
    await serve(journal, ROUTES)
    await journal.publish(Event(id="1", source="/tests", type="raw_input", data=LONDON))
    quick = tuple(90 if bound == 0.01 else 0 for bound in (*SECONDS, None))
    slow = tuple(10 if bound == 1.0 else 0 for bound in (*SECONDS, None))
    for bridge, times in (("one", quick), ("two", slow)):
        counts = Counts(delivered=sum(times), undelivered=1, seconds=times)
        await write(journal.scripts, bridge, {"distance": [Slot(0, counts)]})
    shown = (await operator.get("/ops.json")).json()
    [stage] = shown["stages"]
    assert shown["backlog"] == 1
    assert (stage["state"], stage["journaled"], stage["undelivered"]) == ("served", 1, 2)
    assert stage["rate"] == pytest.approx(100 / 60, abs=0.001)
    assert stage["p50_seconds"] == pytest.approx(0.005 + 0.005 * 50 / 90)
    assert stage["p99_seconds"] == pytest.approx(0.95)
    latest = stage["recent"][-4:]  # they have grown a little older since, each by itself
    assert (sum(stage["recent"]), sum(latest)) == (100, 100)
    assert stage["oldest_event_seconds"] >= 0
    page = (await operator.get("/ops")).text
    assert 'aria-label="Deliveries in each five seconds of the last minute: 0, 0' in page
    assert "950 ms" in page


async def test_ordered_stage_is_shown_with_its_key_and_the_held_events(
    operator: httpx.AsyncClient, journal: Journal
) -> None:
    for order, key in (("customer", "customer"), (True, "partitionkey")):
        await serve(journal, {"ship": Wiring(["item"], [], "http://s", order=order)})
        await journal.redis.zadd(keys.held("ship", "item"), {"one": 0, "two": 0})
        [stage] = (await operator.get("/ops.json")).json()["stages"]
        assert (stage["order"], stage["journaled"], stage["held"]) == (key, 2, 2)
        page = (await operator.get("/ops")).text
        assert f"in order by <code>{key}</code>" in page
        assert "2 held" in page


async def test_stages_stand_in_the_order_of_the_pipeline(operator: httpx.AsyncClient, journal: Journal) -> None:
    """One that goes round comes too."""
    routes = {
        "a-last": Wiring(["c"], [], "http://x"),
        "b-second": Wiring(["b"], ["c"], "http://x"),
        "c-first": Wiring(["a"], ["b"], "http://x"),
        "d-round": Wiring(["d"], ["e"], "http://x"),
        "e-round": Wiring(["e"], ["d"], "http://x"),
    }
    await serve(journal, routes)
    stages = (await operator.get("/ops.json")).json()["stages"]
    assert [stage["stage"] for stage in stages] == ["c-first", "b-second", "a-last", "d-round", "e-round"]


async def test_a_stage_no_bridge_serves_shows_as_such(
    operator: httpx.AsyncClient, journal: Journal, redis: Redis
) -> None:
    wired = {"consumes": ["raw_input"], "emits": [], "url": "http://d", "beat": 1}
    await redis.hset(keys.STAGES, "gone", json.dumps(wired))
    [stage] = (await operator.get("/ops.json")).json()["stages"]
    assert stage["state"] == "not served"


async def test_dead_letters_are_shown_without_an_address(operator: httpx.AsyncClient, journal: Journal) -> None:
    await buried(journal, reason="HTTP 422: no distance is kept for ada.lovelace@example.org <b>")
    page = (await operator.get("/ops")).text
    assert "a***@example.org" in page
    assert "lovelace" not in page
    assert "&lt;b&gt;" in page
    assert "dead-0" in page


async def test_nothing_is_styled_or_run_in_line_or_kept(browser: httpx.AsyncClient, journal: Journal) -> None:
    await buried(journal, 2)
    page = await browser.get("/ops")
    tags = Tags(page.text)
    assert not [tag for tag, attributes in tags.tags if any(name.startswith(("on", "style")) for name in attributes)]
    assert all(script.get("src", "").startswith("/static/") for script in tags.of("script"))  # type: ignore[union-attr]
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"


def test_ops_is_503_while_redis_is_away(tmp_path: Path) -> None:
    env = {"REDIS_URL": "redis://127.0.0.1:1", "OPS_TOKEN": TOKEN}
    with Module(tmp_path, "gateway", env=env, ready="/healthz") as process:
        assert httpx.get(f"{process.url}/ops", headers=BEARER, timeout=ANSWER_WITHIN).status_code == 503
        assert httpx.get(f"{process.url}/ops", timeout=ANSWER_WITHIN).status_code == 401


# The messages


async def test_message_stream_masks_addresses(operator: httpx.AsyncClient, journal: Journal) -> None:
    await serve(journal, ROUTES)
    told: list[dict[str, Any]] = []
    async with operator.stream("GET", "/ops/messages") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")

        async def publish_until_told() -> None:
            while not told:  # the stream may not be subscribed yet
                await journal.publish(Event(id=f"tailed-{uuid4()}", source="/tests", type="raw_input", data=LONDON))
                await asyncio.sleep(0.05)

        publishing = asyncio.create_task(publish_until_told())
        async for text in stream.aiter_lines():
            if text.startswith("data: "):
                told.append(json.loads(text.removeprefix("data: ")))
                break
        await publishing
    [said] = told
    assert (said["channel"], said["id"][:7]) == ("raw_input", "tailed-")
    assert "***@" in said["data"]
    assert LONDON["email"] not in said["data"]


async def test_only_five_message_streams_are_open(operator: httpx.AsyncClient) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(MOST_STREAMS):
            await stack.enter_async_context(operator.stream("GET", "/ops/messages"))
        answer = await operator.get("/ops/messages")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")

    async def free() -> bool:
        async with operator.stream("GET", "/ops/messages") as stream:
            return stream.status_code == 200

    await eventually(free)


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (b'"ada.lovelace@example.org"', "a***@example.org"),
        (b"ada.lovelace@example.org", "a***@example.org"),
        (b'{"email":"ada.lovelace@example.org"}', '{"email":"a***@example.org"}'),
        (b"\xff\xfe", r"\xff\xfe"),
        (b"1", "1"),
    ],
)
def test_message_stream_shows_any_message(message: bytes, data: str) -> None:
    assert line("raw_input", message) == {"channel": "raw_input", "id": "", "data": data}


@pytest.mark.parametrize("before", range(LOOKED_AT - 40, LOOKED_AT + 4))
def test_no_address_shows_because_a_message_is_cut_off(before: int) -> None:
    """A text that is cut within an address would no longer look like one."""
    short = line("raw_input", b"a@b.co " * 420 + b"x" * max(0, before - 7 * 420) + b" ada.lovelace@example.org " * 20)
    assert "lovelace" not in short["data"]
    assert len(short["data"]) <= LONGEST_DATA
