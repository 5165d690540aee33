"""A page whose live stream is refused polls the status, and opens the stream once there is room."""

from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from redis import Redis

from gateway.notifier import MOST_OF_ONE
from milepost.journal import keys
from tests.browser.visitor import MESSAGE, Visitors, assert_accessible, fill, held, reached, submit, wait_for_state
from tests.cli.running import Up
from tests.servers import ANSWER_WITHIN, Module, wait_for

CHANNELS = ["raw_input", "calculated_distance", "user:email", "email:sent"]
OURS = "127.0.0.1"
ROOM_WITHIN = 360_000
"""Milliseconds: the page tries the stream again after 1, 2, 4, 8 … seconds."""


@pytest.fixture(scope="module")
def gateway(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    """One more gateway of the pipeline, with one stream for each address."""
    env = {"REDIS_URL": up.stack["redis"], "STREAM_LIMIT": "1", "FORWARDED_ALLOW_IPS": "127.0.0.1"}
    with Module(tmp_path_factory.mktemp("refused"), "gateway", env=env) as process:
        yield process


@pytest.fixture
def visitor(browser: Browser, gateway: Module) -> Iterator[Visitors]:
    visitors = Visitors(browser, gateway.url)
    yield visitors
    visitors.leave()
    assert visitors.complaints == []


@pytest.fixture
def others(gateway: Module) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=ANSWER_WITHIN) as client:
        yield client


@pytest.fixture
def endless(up: Up) -> str:
    """Where a submission is that stays under way, and with it each stream of it."""
    event_id = str(uuid4())
    with Redis.from_url(up.stack["redis"]) as redis:
        redis.hset(keys.status(event_id), "raw_input", '{"at":1,"data":null}')
    return f"/submissions/{event_id}"


def hold(client: httpx.Client, place: str, address: str, within: ExitStack) -> None:
    """Have a stream open from this address, once the gateway has seen the earlier ones close."""

    def is_open() -> bool:
        with ExitStack() as trial:
            stream = client.stream("GET", f"{place}/events", headers={"x-forwarded-for": address})
            if trial.enter_context(stream).status_code == 200:
                within.push(trial.pop_all())
                return True
        return False

    wait_for(is_open, what="a stream of its own")


def statuses_of_streams(page: Page) -> list[int]:
    """Those of the page, as they come."""
    found: list[int] = []
    page.on("response", lambda answer: found.append(answer.status) if answer.url.endswith("/events") else None)
    return found


def test_one_stream_too_many_of_a_client(visitor: Visitors, up: Up, others: httpx.Client, endless: str) -> None:
    visitor.expected = ("status of 429",)
    page = visitor()
    statuses = statuses_of_streams(page)
    with ExitStack() as streams:
        hold(others, endless, OURS, streams)
        fill(page)
        with held(up.stack, "store"):
            submit(page)
            expect(page.locator(".steps .next")).to_contain_text("user:email")
            expect(page.locator("#link")).to_contain_text("checks every few seconds")
            assert_accessible(page)
        wait_for_state(page, "done")
    assert set(statuses) == {429}
    assert reached(page) == CHANNELS
    expect(page.locator(".answer")).to_contain_text(MESSAGE)
    expect(page.locator("#link")).to_be_empty()


def test_one_stream_too_many_of_a_submission(visitor: Visitors, others: httpx.Client, endless: str) -> None:
    visitor.expected = ("status of 503",)
    page = visitor()
    statuses = statuses_of_streams(page)
    with ExitStack() as streams:
        for number in range(MOST_OF_ONE):
            hold(others, endless, f"192.0.2.{number}", streams)
        page.goto(endless)
        expect(page.locator("#link")).to_contain_text("checks every few seconds")
    expect(page.locator("#link")).to_be_empty(timeout=ROOM_WITHIN)
    assert (set(statuses), statuses[-1]) == ({503, 200}, 200), "who leaves makes room"


def test_a_stage_that_gives_up_shows_without_a_stream(
    visitor: Visitors, up: Up, others: httpx.Client, endless: str
) -> None:
    visitor.expected = ("status of 429",)
    page = visitor()
    with ExitStack() as streams:
        hold(others, endless, OURS, streams)
        under_way = f"/submissions/{uuid4()}"
        with Redis.from_url(up.stack["redis"]) as redis:
            progress = keys.status(under_way.rpartition("/")[2])
            redis.hset(progress, "raw_input", '{"at":1,"data":null}')
            page.goto(under_way)
            expect(page.locator("#link")).to_contain_text("checks every few seconds")
            redis.hset(progress, "dead:distance", '{"at":2,"data":{"reason":"HTTP 422: lat"}}')
        wait_for_state(page, "dead")
    expect(page.locator("#reason")).to_have_text("HTTP 422: lat")
    expect(page.locator(".steps .stopped")).to_contain_text("distance")
