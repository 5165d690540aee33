"""`/asyncapi.json` and `/channels`."""

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest

from functions import payloads
from gateway.app import create_app
from gateway.settings import GatewaySettings
from milepost import stage_values
from milepost.events import asyncapi
from milepost.graph import WiredStage
from milepost.journal import Journal
from tests.servers import ANSWER_WITHIN, ROOT, Module

STAGES = [{"name": one.name, "consumes": one.consumes, "emits": one.emits} for one in stage_values.read(ROOT)]


@pytest.fixture(scope="module")
def told(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    """A gateway that was told of the stages."""
    env = {"REDIS_URL": redis_url, "STAGES": json.dumps(STAGES)}
    with Module(tmp_path_factory.mktemp("gateway"), "gateway", env=env) as process:
        yield process


@pytest.fixture
async def site(told: Module) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=told.url, timeout=ANSWER_WITHIN) as client:
        yield client


def test_the_gateway_and_the_command_say_the_same(told: Module) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "milepost.cli", "asyncapi", "--project", str(ROOT)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    served = httpx.get(f"{told.url}/asyncapi.json", timeout=ANSWER_WITHIN)
    assert served.headers["content-type"] == "application/json"
    document: dict[str, Any] = served.json()
    assert document == json.loads(printed.stdout)
    assert len(document["operations"]) == 1 + sum(2 if stage["emits"] else 1 for stage in STAGES)


async def test_channels_page_names_payload_and_consumers(site: httpx.AsyncClient) -> None:
    answer = await site.get("/channels")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    sections = answer.text.split('<section class="operation"')[1:]
    described = list(zip(sections, asyncapi.payloads_of(payloads), strict=True))
    for section, payload in described:
        text = unescape(section)
        assert f"<h2><code>{payload.channel}</code></h2>" in text
        assert f'href="#schema-{payload.__name__}"' in text
        assert f'"type": "{payload.channel}"' in text
        assert f'id="schema-{payload.__name__}"' in answer.text
    assert "<dd>gateway</dd>" in sections[0]
    assert re.search(r"<dd>distance\b", sections[0])
    (last,) = [section for section, payload in described if payload.channel == "email:sent"]
    assert "no stage" in last
    assert 'href="/channels" aria-current="page"' in answer.text
    assert "<script>" not in answer.text
    assert "style=" not in answer.text


async def test_ordered_stage_is_shown_with_its_key(journal: Journal) -> None:
    stages = tuple(
        WiredStage(name=f"by-{order}", consumes="user:email", order=order) for order in ("name", True, False)
    )
    app = create_app(GatewaySettings(stages=stages), journal)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as site:
        page = (await site.get("/channels")).text
    in_order = "one at a time and in order for each"
    expected = f"by-name, {in_order} <code>name</code>; by-True, {in_order} <code>partitionkey</code>; by-False</dd>"
    assert expected in page


async def test_every_page_links_to_the_channels(site: httpx.AsyncClient) -> None:
    for path in ("/", "/docs"):
        assert 'href="/channels"' in (await site.get(path)).text


async def test_a_gateway_that_knows_no_stages_knows_its_channels(client: httpx.AsyncClient) -> None:
    document = (await client.get("/asyncapi.json")).json()
    assert list(document["operations"]) == ["gateway.send"]
    assert "email:sent" in (await client.get("/channels")).text


def test_missing_values_are_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "milepost.cli", "asyncapi", "--project", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "helm/values.yaml: not found" in done.stderr
