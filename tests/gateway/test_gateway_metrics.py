"""`GET /metrics` of the gateway: requests are counted by route, and no client can make a label."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Receive, Scope, Send

from gateway.metrics import GatewayMetrics, RequestMetrics
from tests.gateway.samples import LONDON


async def samples(client: httpx.AsyncClient, name: str) -> dict[tuple[str, ...], float]:
    """Label values in the order of their names → value."""
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == name
    }


async def requests(client: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """Method, route and status → count."""
    return await samples(client, "milepost_gateway_requests_total")


async def test_requests_are_counted_by_route_and_status(client: httpx.AsyncClient) -> None:
    before = await requests(client)
    accepted = (await client.post("/distance", json=LONDON)).json()
    await client.post("/distance", json={})
    await client.get(accepted["status"])
    await client.get("/static/milepost.css")
    after = await requests(client)
    for labels in [
        ("POST", "/distance", "202"),
        ("POST", "/distance", "422"),
        ("GET", "/submissions/{id}", "200"),
        ("GET", "/static", "200"),
    ]:
        assert after[labels] == before.get(labels, 0) + 1
    times = await samples(client, "milepost_gateway_response_seconds_count")
    assert times[("/distance",)] >= 2


@pytest.mark.parametrize("path", ["/nowhere", "/submissions", "/%22%0a", "/distance/x", "/ops"])
async def test_no_path_of_a_stranger_becomes_a_label(client: httpx.AsyncClient, path: str) -> None:
    before = await requests(client)
    await client.get(path)
    after = await requests(client)
    assert after[("GET", "other", "404")] == before.get(("GET", "other", "404"), 0) + 1


async def test_nor_does_a_method(client: httpx.AsyncClient) -> None:
    await client.request("BREW", "/distance")
    assert {labels[0] for labels in await requests(client)} <= {"GET", "HEAD", "POST", "other"}


async def test_its_own_request_is_in_flight(client: httpx.AsyncClient) -> None:
    assert (await samples(client, "milepost_gateway_in_flight"))[()] >= 1


async def test_request_that_raises_is_counted_as_500() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    counted = RequestMetrics(broken, metrics=GatewayMetrics())
    transport = httpx.ASGITransport(counted, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        assert (await client.get("/")).status_code == 500
    told = {"route": "other", "method": "GET", "status": "500"}
    assert counted.metrics.registry.get_sample_value("milepost_gateway_requests_total", told) == 1
