"""What gateway, bridge and function answer alike: HEAD, two content types, encoded bodies, a slash at a path's end."""

import gzip
import json

import httpx
import pytest

from tests.security.conftest import Door
from tests.security.raw import CLOSE, replies, request, statuses
from tests.servers import ANSWER_WITHIN, Function, Module

PATHS = {"gateway": ("/healthz", "/readyz", "/metrics"), "function": ("/", "/metrics")}
PATHS["milepost.bridge"] = PATHS["gateway"]


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip", "X-Own"])
@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
async def test_encoded_body_is_415_with_a_plain_problem(door: Door, coding: str, *, chunked: bool) -> None:
    headers = [door.content_type, b"content-encoding: " + coding.encode()]
    body = gzip.compress(door.body)
    after = request("GET", door.alive, [CLOSE])
    answered = await statuses(door.port, request("POST", door.path, headers, body, chunked=chunked), after)
    assert answered in ([415], [415, 200])  # the gateway closes the connection
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{door.port}", timeout=ANSWER_WITHIN) as client:
        sent = {"content-encoding": coding, "content-type": door.content_type.decode().partition(": ")[2]}
        answer = await client.post(door.path, content=body, headers=sent)
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 415
    assert f"Content-Encoding '{coding.lower()}' is not read" in answer.json()["detail"]


@pytest.mark.parametrize("other", [b"text/html", None], ids=["another", "the same"])
@pytest.mark.parametrize("first", [True, False])
async def test_content_type_that_is_given_twice_is_400_with_a_plain_problem_that_names_it(
    door: Door, other: bytes | None, *, first: bool
) -> None:
    types = [door.content_type, b"content-type: " + other if other else door.content_type]
    sent = request("POST", door.path, [*(types if first else reversed(types)), CLOSE], door.body)
    (reply,) = await replies(door.port, sent)
    assert (reply.status, reply.headers["content-type"]) == (400, "application/problem+json")
    assert json.loads(reply.body)["detail"].startswith("content-type: given twice")


async def test_batch_with_another_content_type_is_refused_too(door: Door) -> None:
    batch = [b"content-type: application/cloudevents-batch+json", door.content_type, CLOSE]
    assert await statuses(door.port, request("POST", door.path, batch, b"[" + door.body + b"]")) == [400]


async def test_identity_is_no_encoding(door: Door) -> None:
    sent = request("POST", door.path, [door.content_type, b"content-encoding: identity", CLOSE], door.body)
    assert await statuses(door.port, sent) == [door.expected]


async def test_head_is_answered_as_get_is_without_the_body(door: Door) -> None:
    name = "function" if isinstance(door.server, Function) else door.server.name
    for path in PATHS[name]:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{door.port}", timeout=ANSWER_WITHIN) as client:
            get, head = await client.get(path), await client.head(path)
        assert head.status_code == get.status_code == 200
        assert head.headers["content-type"] == get.headers["content-type"]
        assert not head.content


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/distance/", "/healthz/", "/metrics/", "/channels/", "/static/", "/replies/"])
async def test_slash_at_the_end_of_a_path_is_no_reason_to_redirect(door: Door, method: str, path: str) -> None:
    """The gateway does not know whether a proxy in front of it speaks TLS: a redirect would lead to http://."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{door.port}", timeout=ANSWER_WITHIN) as client:
        answer = await client.request(method, path)
    assert not answer.is_redirect
    assert "location" not in answer.headers
    if isinstance(door.server, Module):
        assert answer.status_code in {404, 405}
