"""One client may submit so often and no more."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from tests.gateway.samples import LONDON, Published
from tests.servers import ANSWER_WITHIN, WITHIN, Module


@pytest.fixture(scope="module")
def process(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    env = {"REDIS_URL": redis_url, "RATE_LIMIT": "3/hour", "FORWARDED_ALLOW_IPS": "127.0.0.1"}
    with Module(tmp_path_factory.mktemp("limited"), "gateway", env=env) as process:
        yield process


@pytest.fixture
def limited(process: Module, redis: Redis) -> Module:
    """A gateway whose Redis, where it counts, is empty."""
    return process


def test_submission_over_the_limit_is_429_with_retry_after(limited: Module) -> None:
    with httpx.Client(base_url=limited.url, timeout=ANSWER_WITHIN) as client:
        answers = [client.post("/distance", json=LONDON) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    assert 1 <= int(answers[3].headers["retry-after"]) <= 7200
    assert answers[3].headers["content-type"] == "application/problem+json"


async def test_refused_form_is_kept_and_nothing_is_published(limited: Module, published: Published) -> None:
    async with httpx.AsyncClient(base_url=limited.url, timeout=ANSWER_WITHIN) as client:
        for _ in range(3):
            await client.post("/distance", json=LONDON)
        answer = await client.post("/distance", data={"email": "kept@example.org", "lat": "1", "long": "2"})
    assert answer.status_code == 429
    assert 'value="kept@example.org"' in answer.text
    assert len(await published()) == 3


def test_clients_behind_a_trusted_proxy_are_counted_apart(limited: Module) -> None:
    with httpx.Client(base_url=limited.url, timeout=ANSWER_WITHIN) as client:
        for visitor in ("192.0.2.1", "192.0.2.2"):
            answers = [
                client.post("/distance", json=LONDON, headers={"x-forwarded-for": visitor}).status_code
                for _ in range(4)
            ]
            assert answers == [202, 202, 202, 429]


def test_the_header_of_a_stranger_is_not_believed(redis_url: str, redis: Redis, tmp_path: Path) -> None:
    env = {"REDIS_URL": redis_url, "RATE_LIMIT": "1/hour"}
    with (
        Module(tmp_path, "gateway", env=env) as process,
        httpx.Client(base_url=process.url, timeout=ANSWER_WITHIN) as client,
    ):
        answers = [
            client.post("/distance", json=LONDON, headers={"x-forwarded-for": f"192.0.2.{n}"}).status_code
            for n in range(2)
        ]
    assert answers == [202, 429]


def test_unreadable_rate_limit_is_named(tmp_path: Path) -> None:
    process = Module(tmp_path, "gateway", env={"RATE_LIMIT": "often"}).launch()
    assert process.process
    assert process.process.wait(WITHIN) == 2
    assert "RATE_LIMIT: must look like 60/minute" in process.log
