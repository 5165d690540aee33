"""The HTTP client: its requests, its choice of a connection, and the end of connections."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from milepost.bridge.http import client as module
from milepost.bridge.http.client import Client, Lost, NotSent, Response
from milepost.bridge.http.connection import Connection, Result
from milepost.errors import ConfigurationError
from tests.peer import EMPTY, Line, Peer, answer_all, never_answer, on_each_loop, post, reply, timed_out
from tests.servers import WITHIN, eventually

JSON = "application/json"
INJECTION = {
    "new line": {"X-A": "b\r\nX-C: d"},
    "line feed": {"X-A": "b\nX-C: d"},
    "zero": {"X-A": "b\0"},
    "beyond latin-1": {"X-A": "\u2028"},
    "name": {"X-A: b\r\nX-C": "d"},
    "no name": {"": "d"},
    "length": {"content-length": "1"},
    "host": {"Host": "elsewhere"},
}


# Requests


@on_each_loop
async def test_the_request_is_whole() -> None:
    async with Peer(answer_all) as peer:
        client = Client(f"{peer.url}/default/broker?a=b%20c", headers={"X-Fixed": "1"})
        await client.post(b'{"a": 1}', content_type=JSON, timeout=WITHIN)
        await client.post(b"", content_type="text/plain", timeout=WITHIN, headers={"Ce-Id": "x", "Ce-Source": "/y"})
        start = b"POST /default/broker?a=b%%20c HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-Fixed: 1\r\n" % peer.port
        assert peer.requests == [
            start + b'Content-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}',
            start + b"Content-Type: text/plain\r\nCe-Id: x\r\nCe-Source: /y\r\nContent-Length: 0\r\n\r\n",
        ]
        await client.close()


@on_each_loop
async def test_a_large_body_arrives_whole() -> None:
    body = bytes(range(256)) * 4_000
    async with Peer(answer_all) as peer:
        client = Client(peer.url)
        await asyncio.gather(*(post(client, body) for _ in range(4)))
        assert [request.partition(b"\r\n\r\n")[2] for request in peer.requests] == [body] * 4
        await client.close()


@pytest.mark.parametrize(
    ("url", "start"),
    [
        ("http://example.org", b"POST / HTTP/1.1\r\nHost: example.org\r\n"),
        ("http://example.org:80/", b"POST / HTTP/1.1\r\nHost: example.org\r\n"),
        ("http://Example.org:443/", b"POST / HTTP/1.1\r\nHost: example.org:443\r\n"),
        ("https://example.org:443/a", b"POST /a HTTP/1.1\r\nHost: example.org\r\n"),
        ("https://example.org:80?a=b", b"POST /?a=b HTTP/1.1\r\nHost: example.org:80\r\n"),
        ("http://[::1]:8080/a%40b", b"POST /a%40b HTTP/1.1\r\nHost: [::1]:8080\r\n"),
    ],
)
def test_the_host_header_names_the_port_unless_it_is_the_usual_one(url: str, start: bytes) -> None:
    assert Client(url)._start == start


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "ftp://example.org",
        "http://",
        "http:///path",
        "http://example.org:0",
        "http://example.org:65536",
        "http://example.org:port",
        "http://[::1",
        "http://example.org/a b",
        "http://example.org/\r\nX-A: b",
        "http://example.org/\tb",
        "http://exämple.org",
        "http://example.org/#fragment",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Client(url)
    assert str(refused.value).startswith(f"{url}: ")


@pytest.mark.parametrize("port", ["80", "port"])
def test_a_password_in_a_url_is_refused_and_not_shown(port: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"…@example.org:{port}: ")) as refused:
        Client(f"http://user:sec@ret@example.org:{port}")
    assert "ret@" not in str(refused.value)


@pytest.mark.parametrize("headers", INJECTION.values(), ids=INJECTION)
def test_a_header_that_would_break_the_request_is_refused_at_construction(headers: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"http://example\.org: .*header"):
        Client("http://example.org", headers=headers)


@pytest.mark.parametrize("headers", INJECTION.values(), ids=INJECTION)
@on_each_loop
async def test_a_header_that_would_break_the_request_is_refused_at_the_post(headers: dict[str, str]) -> None:
    async with Peer(answer_all) as peer:
        client = Client(peer.url)
        with pytest.raises(ValueError, match="header"):
            await post(client, headers=headers)
        with pytest.raises(ValueError, match="header"):
            await client.post(b"", content_type="a\r\nX-A: b", timeout=1)
        assert not peer.lines
        await client.close()


# The connections


@on_each_loop
async def test_as_many_connections_as_posts_at_once_and_each_is_used_again() -> None:
    async def script(line: Line) -> None:
        while True:
            await line.request()
            await together.wait()
            line.write(EMPTY)

    together = asyncio.Barrier(20)
    async with Peer(script) as peer:
        client = Client(peer.url)
        for _ in range(3):
            await asyncio.gather(*(post(client) for _ in range(20)))
        assert len(peer.lines) == 20
        await client.close()


@on_each_loop
async def test_the_connection_used_last_is_used_first() -> None:
    async def script(line: Line) -> None:
        await line.request()
        await together.wait()
        line.write(EMPTY)
        await answer_all(line)

    together = asyncio.Barrier(5)
    async with Peer(script) as peer:
        client = Client(peer.url)
        await asyncio.gather(*(post(client) for _ in range(5)))
        for _ in range(10):
            await post(client)
        assert sorted(len(line.requests) for line in peer.lines) == [1, 1, 1, 1, 11]
        await client.close()


@on_each_loop
async def test_a_connection_unused_for_a_while_is_closed() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "IDLE", 0.05)
        async with Peer(answer_all) as peer:
            client = Client(peer.url)
            for lines in (1, 2):
                await post(client)
                await peer.lines[-1].hung_up.wait()
                assert len(peer.lines) == lines
            await eventually(lambda: not client._connections)
            assert client._timer_at == float("inf")  # nothing left to wait for
            await client.close()


@on_each_loop
async def test_a_get_has_a_connection_of_its_own_which_is_closed_after_it() -> None:
    heads: list[bytes] = []

    async def script(line: Line) -> None:
        heads.append(await line.head())
        line.write(reply(b"alive", status=b"503 Service Unavailable"))
        await line.closed()

    async with Peer(script) as peer:
        client = Client(f"{peer.url}/a?b", headers={"X-Fixed": "1"})
        for lines in (1, 2):
            assert await client.get(timeout=WITHIN) == 503
            assert len(peer.lines) == lines
            await peer.lines[-1].hung_up.wait()
        assert heads == [b"GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-Fixed: 1\r\n\r\n" % peer.port] * 2
        await client.close()


@on_each_loop
async def test_a_get_without_a_response_in_time_is_lost() -> None:
    async def script(line: Line) -> None:
        await line.head()
        await line.closed()

    async with Peer(script) as peer:
        client = Client(peer.url)
        fault: Exception = NotSent("")
        while isinstance(fault, NotSent):  # no connection in time
            with pytest.raises((Lost, NotSent)) as caught:
                await client.get(timeout=0.05)
            fault = caught.value
        assert isinstance(fault, Lost)
        assert fault.timed_out
        await peer.lines[-1].hung_up.wait()
        await client.close()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@on_each_loop
async def test_an_idle_connection_that_the_server_closes_is_not_used_again(reset: bool) -> None:
    async def script(line: Line) -> None:
        await line.request()
        line.write(EMPTY)
        if reset:
            await idle.wait()
            idle.clear()
            line.reset()

    idle = asyncio.Event()
    async with Peer(script) as peer:
        client = Client(peer.url)
        for lines in (1, 2, 3):
            await post(client)
            idle.set()
            await eventually(lambda: not client._connections)
            assert len(peer.lines) == len(peer.requests) == lines
        await client.close()


@pytest.mark.parametrize("sent", [b"\r\n", reply(b"late"), b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
@on_each_loop
async def test_an_idle_connection_that_says_something_is_closed(sent: bytes) -> None:
    async def script(line: Line) -> None:
        await line.request()
        line.write(EMPTY)
        await idle.wait()
        line.write(sent)
        await line.closed()

    idle = asyncio.Event()
    async with Peer(script) as peer:
        client = Client(peer.url)
        await post(client)
        idle.set()
        await peer.lines[0].hung_up.wait()
        await eventually(lambda: not client._connections)
        assert (await post(client)).status == 204
        await client.close()


# Time, cancellation, the end


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal"], ids=["silent", "half"])
@on_each_loop
async def test_a_response_not_whole_in_time_is_lost_and_its_connection_closed(sent: bytes) -> None:
    async def script(line: Line) -> None:
        await line.request()
        line.write(sent)
        await line.closed()

    async with Peer(script) as peer:
        client = Client(peer.url)
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(post(client))  # its later deadline is not in the way of the earlier one
        await eventually(lambda: peer.requests)
        start = loop.time()
        lost = await timed_out(client, within=0.05)
        assert "no response in time" in str(lost)
        assert lost.timed_out
        assert loop.time() - start >= 0.045
        await peer.lines[-1].hung_up.wait()
        assert not waiting.done()
        assert not peer.lines[0].hung_up.is_set()
        waiting.cancel()
        await asyncio.wait([waiting])
        await client.close()


@on_each_loop
async def test_a_reused_connection_that_times_out_is_not_tried_again() -> None:
    async def script(line: Line) -> None:
        await line.request()
        line.write(EMPTY)
        await never_answer(line)

    async with Peer(script) as peer:
        client = Client(peer.url)
        await post(client)
        with pytest.raises(Lost) as lost:
            await post(client, within=0.05)
        assert lost.value.timed_out
        assert len(peer.lines) == 1
        await client.close()


@on_each_loop
async def test_each_of_many_posts_has_its_own_time() -> None:
    async with Peer(never_answer) as peer:
        client = Client(peer.url)
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def lost_after(within: float) -> float:
            assert (await timed_out(client, within)).timed_out
            return loop.time() - start

        limits = [0.3, 0.1, 0.2, 0.4, 0.15]
        took = await asyncio.gather(*(lost_after(limit) for limit in limits))
        assert all(seconds > limit - 0.005 for seconds, limit in zip(took, limits, strict=True))
        await client.close()


@on_each_loop
async def test_a_later_deadline_does_not_put_off_an_earlier_one() -> None:
    async with Peer(never_answer) as peer:
        client = Client(peer.url)
        early = asyncio.create_task(timed_out(client, within=0.1))
        await eventually(lambda: peer.requests)
        late = asyncio.create_task(post(client))
        assert (await early).timed_out
        assert not late.done()
        late.cancel()
        await asyncio.wait([late])
        await client.close()


async def test_all_connections_share_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[asyncio.TimerHandle] = []

    def call_at(when: float, callback: Callable[..., object], *given: Any, **more: Any) -> asyncio.TimerHandle:
        timer = made(when, callback, *given, **more)
        if callback == client._sweep:
            timers.append(timer)
        return timer

    loop = asyncio.get_running_loop()
    made = loop.call_at
    posting: list[asyncio.Task[Response]] = []
    async with Peer(never_answer) as peer:
        client = Client(peer.url)
        monkeypatch.setattr(loop, "call_at", call_at)
        for within in (90, 80, 70, 60):  # one after the other, as each shorter time replaces the timer
            posting.append(asyncio.create_task(post(client, within=within)))
            await eventually(lambda: len(peer.requests) == len(posting))
        assert [timer.cancelled() for timer in timers] == [True, True, True, False]
        await client.close()
        await asyncio.wait(posting)


@on_each_loop
async def test_cancelling_a_post_closes_its_connection_and_no_other() -> None:
    async def script(line: Line) -> None:
        await line.request()
        if line is peer.lines[0]:
            await line.closed()
        line.write(EMPTY)
        await answer_all(line)

    async with Peer(script) as peer:
        client = Client(peer.url)
        posting = asyncio.create_task(post(client))
        await eventually(lambda: peer.requests)
        await post(client)
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        await peer.lines[0].hung_up.wait()
        await post(client)
        assert [len(line.requests) for line in peer.lines] == [1, 2]
        await client.close()


@on_each_loop
async def test_a_post_cancelled_just_as_its_response_has_come_does_not_return_its_connection() -> None:
    class Cancelling(Connection):
        def _finish(self, waiter: asyncio.Future[Result]) -> None:
            super()._finish(waiter)
            posting.cancel()

    async with Peer(answer_all) as peer:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "Connection", Cancelling)
            client = Client(peer.url)
            posting = asyncio.create_task(post(client))
            with pytest.raises(asyncio.CancelledError):
                await posting
        assert not client._idle
        await peer.lines[0].hung_up.wait()
        await client.close()


@on_each_loop
async def test_closing_ends_idle_connections_and_requests_under_way() -> None:
    async def script(line: Line) -> None:
        await line.request()
        if line is peer.lines[0]:
            await line.closed()
        line.write(EMPTY)
        await line.closed()

    async with Peer(script) as peer:
        client = Client(peer.url)
        posting = asyncio.create_task(post(client))
        await eventually(lambda: peer.requests)
        await post(client)
        await client.close()
        assert not client._connections
        with pytest.raises(Lost, match="the client was closed"):
            await posting
        for line in peer.lines:
            await line.hung_up.wait()
        with pytest.raises(NotSent, match="the client was closed"):
            await post(client)
        await client.close()
        assert len(peer.lines) == 2


@on_each_loop
async def test_a_connection_made_just_as_the_client_closes_is_not_used() -> None:
    class Closing(Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            closing.append(asyncio.ensure_future(client.close()))

    closing: list[asyncio.Future[None]] = []
    async with Peer(answer_all) as peer:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "Connection", Closing)
            client = Client(peer.url)
            with pytest.raises((NotSent, Lost), match="the client was closed"):
                await post(client)
        await asyncio.gather(*closing)
        await eventually(lambda: all(line.hung_up.is_set() for line in peer.lines))
        assert not peer.requests
