"""Responses, byte by byte: their end, their faults, and the reuse of the connection."""

import asyncio
import socket
from contextlib import closing
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from milepost.bridge.http.client import Client, Lost, Response, ResponseTooLarge
from milepost.bridge.http.connection import LARGEST_HEAD, Connection
from tests.peer import EMPTY, Line, Peer, on_each_loop, post, reply
from tests.servers import WITHIN, eventually

KEPT = {
    "length": (reply(b"hello"), Response(200, {"content-length": "5"}, b"hello")),
    "empty": (reply(status=b"202 Accepted"), Response(202, {"content-length": "0"}, b"")),
    "204": (EMPTY, Response(204, {}, b"")),
    "204 with a length": (
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        Response(204, {"content-length": "5"}, b""),
    ),
    "304 with a length": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        Response(304, {"content-length": "5"}, b""),
    ),
    "a redirect": (
        reply(b"", b"Location: /elsewhere", status=b"302 Found"),
        Response(302, {"content-length": "0", "location": "/elsewhere"}, b""),
    ),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n",
        Response(200, {"transfer-encoding": "chunked"}, b"hello, world"),
    ),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nCe-Id: forged\r\n\r\n",
        Response(200, {"transfer-encoding": "chunked"}, b"x"),
    ),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + reply(b"hello"),
        Response(200, {"content-length": "5"}, b"hello"),
    ),
    "headers": (
        b"HTTP/1.1 200 OK\r\nX-Empty:\r\nX-Twice: a\r\nX-Twice: b\r\nX-Latin: caf\xe9\r\nContent-Length: 0\r\n\r\n",
        Response(
            200,
            Headers(
                raw=[
                    (b"x-empty", b""),
                    (b"x-twice", b"a"),
                    (b"x-twice", b"b"),
                    (b"x-latin", b"caf\xe9"),
                    (b"content-length", b"0"),
                ]
            ),
            b"",
        ),
    ),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", Response(200, {"content-length": "1"}, b"x")),
    "1.0 that keeps": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
        Response(200, {"connection": "keep-alive", "content-length": "1"}, b"x"),
    ),
}

CLOSED = {
    "close": (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
        Response(200, {"connection": "close", "content-length": "1"}, b"x"),
    ),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", Response(200, {"content-length": "1"}, b"x")),
    "a second reply": (reply(b"x") + reply(b"y"), Response(200, {"content-length": "1"}, b"x")),
    "the start of a second reply": (reply(b"x") + b"H", Response(200, {"content-length": "1"}, b"x")),
    "a body with a 204": (EMPTY + b"OK", Response(204, {}, b"")),
    "bytes after the last chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n!",
        Response(200, {"transfer-encoding": "chunked"}, b"x"),
    ),
}

UNTIL_CLOSE = {
    "1.1": (b"HTTP/1.1 200 OK\r\n\r\nhello", Response(200, {}, b"hello")),
    "1.0": (b"HTTP/1.0 200 OK\r\n\r\n", Response(200, {}, b"")),
    "after an interim reply": (
        b"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello",
        Response(200, {}, b"hello"),
    ),
}

NO_HTTP = {
    "a banner": b"SSH-2.0-OpenSSH_9.2\r\n",
    "TLS": b"\x15\x03\x03\x00\x02\x02\x28",
    "a broken header": b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a broken chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello",
    "an endless head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * (LARGEST_HEAD + 1),
    "endless interim replies": b"HTTP/1.1 100 Continue\r\n\r\n" * (LARGEST_HEAD // 25 + 1),
}

CUT_SHORT = {
    "in its head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "after an interim reply": b"HTTP/1.1 100 Continue\r\n\r\n",
    "in its body": reply(b"hello")[:-1],
    "in its chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
}

TOO_LARGE = {
    "length": reply(b"x" * 1001, status=b"418 I'm a teapot"),
    "chunks": b"HTTP/1.1 418 T\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx",
    "until close": b"HTTP/1.1 418 T\r\n\r\n" + b"x" * 1001,
    "little in much": b"HTTP/1.1 418 T\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * (LARGEST_HEAD + 2000),
}


def named(cases: dict[str, tuple[bytes, Response]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("sent", "answer"), cases.values(), ids=cases)


def these(cases: dict[str, bytes]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sent", cases.values(), ids=cases)


def always(sent: bytes, *, close: bool = False) -> Peer:
    """Answers every request with `sent`, and closes then or waits for the client to."""

    async def script(line: Line) -> None:
        while True:
            await line.request()
            line.write(sent)
            if close:
                return

    return Peer(script)


@named(KEPT)
@on_each_loop
async def test_a_connection_is_kept_after(sent: bytes, answer: Response) -> None:
    async with always(sent) as peer:
        client = Client(peer.url)
        assert [await post(client) for _ in range(3)] == [answer] * 3
        assert len(peer.lines) == 1
        await client.close()


@named(CLOSED)
@on_each_loop
async def test_a_connection_is_closed_after(sent: bytes, answer: Response) -> None:
    async with always(sent) as peer:
        client = Client(peer.url)
        assert [await post(client) for _ in range(2)] == [answer] * 2
        assert len(peer.lines) == 2
        for line in peer.lines:
            await line.hung_up.wait()
        await client.close()


@named(UNTIL_CLOSE)
@on_each_loop
async def test_the_end_of_the_connection_ends_a_response_of_no_length(sent: bytes, answer: Response) -> None:
    async with always(sent, close=True) as peer:
        client = Client(peer.url)
        assert [await post(client) for _ in range(2)] == [answer] * 2
        assert len(peer.lines) == 2
        await client.close()


@on_each_loop
async def test_a_reset_does_not_end_a_response_of_no_length() -> None:
    async def script(line: Line) -> None:
        await line.request()
        line.write(b"HTTP/1.1 200 OK\r\n\r\nhel")
        await arrived.wait()
        line.reset()

    arrived = asyncio.Event()
    async with Peer(script) as peer:
        client = Client(peer.url)
        posting = asyncio.create_task(post(client))
        await eventually(lambda: any(connection._size for connection in client._connections))
        arrived.set()
        with pytest.raises(Lost, match="in the middle of its response"):
            await posting
        await client.close()


@these(NO_HTTP)
@on_each_loop
async def test_response_that_is_no_http_is_lost(sent: bytes) -> None:
    async with always(sent) as peer:
        client = Client(peer.url)
        with pytest.raises(Lost, match=f"{peer.url}: the response is not HTTP") as lost:
            await post(client)
        assert not lost.value.timed_out
        await peer.lines[0].hung_up.wait()
        await client.close()


@these(CUT_SHORT)
@on_each_loop
async def test_a_response_cut_short_is_lost(sent: bytes) -> None:
    async with always(sent, close=True) as peer:
        client = Client(peer.url)
        with pytest.raises(Lost, match="closed the connection in the middle of its response") as lost:
            await post(client)
        assert not lost.value.timed_out
        assert len(peer.lines) == 1
        await client.close()


@these(TOO_LARGE)
@on_each_loop
async def test_a_response_over_the_limit_is_refused_and_its_connection_closed(sent: bytes) -> None:
    async with always(sent) as peer:
        client = Client(peer.url, largest_response=1000)
        with pytest.raises(ResponseTooLarge, match="over 1000 bytes") as refused:
            await post(client)
        assert refused.value.status == 418
        await peer.lines[0].hung_up.wait()
        await client.close()


@on_each_loop
async def test_a_response_broken_at_the_limit_is_no_http() -> None:
    sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000 + b"\r\nzz\r\n"
    async with always(sent) as peer:
        client = Client(peer.url, largest_response=1000)
        with pytest.raises(Lost, match="the response is not HTTP"):
            await post(client)
        await client.close()


@on_each_loop
async def test_a_response_at_the_limit_is_taken() -> None:
    async with always(reply(b"x" * 1_000_000)) as peer:
        client = Client(peer.url)
        assert [(await post(client)).body for _ in range(2)] == [b"x" * 1_000_000] * 2
        assert len(peer.lines) == 1
        await client.close()


@on_each_loop
async def test_a_response_that_comes_before_the_body_was_sent_counts_and_the_connection_does_not() -> None:
    async def script(line: Line) -> None:
        await line.head()
        line.write(reply(b"no", status=b"413 Content Too Large"))
        await asyncio.Event().wait()  # reads nothing

    async with Peer(script) as peer:
        client = Client(peer.url)
        for lines in (1, 2):
            answer = await post(client, b"x" * 30_000_000)
            assert (answer.status, answer.body) == (413, b"no")
            assert len(peer.lines) == lines
        await client.close()


class Told(Connection):
    """A connection that says when it has read something."""

    __slots__ = ("read",)
    read: asyncio.Event

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.read.set()


async def feed(pieces: list[bytes], *, close: bool) -> Response:
    """Hand `pieces` to a connection one read at a time; no outcome may come before the last."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with closing(theirs):
        connection = Told("socket", 1000, loop, lambda _: None)
        connection.read = asyncio.Event()
        await loop.create_connection(lambda: connection, sock=ours)
        outcome = connection.send(b"request", loop.time() + WITHIN)
        for piece in pieces:
            assert not outcome.done()
            theirs.sendall(piece)
            await asyncio.wait_for(connection.read.wait(), WITHIN)
            connection.read.clear()
        if close:
            theirs.shutdown(socket.SHUT_WR)
        answer = await asyncio.wait_for(outcome, WITHIN)
        assert connection.usable is not close
        connection.abort()
        await connection.lost
    assert isinstance(answer, Response)
    return answer


def cut(data: bytes, places: set[int]) -> list[bytes]:
    edges = [0, *sorted(place for place in places if 0 < place < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*KEPT.values(), *UNTIL_CLOSE.values()]), st.sets(st.integers(1, 200)))
def test_a_response_may_come_in_any_pieces(case: tuple[bytes, Response], places: set[int]) -> None:
    sent, answer = case
    assert asyncio.run(feed(cut(sent, places), close=case in UNTIL_CLOSE.values())) == answer


@pytest.mark.parametrize(("sent", "answer"), KEPT.values(), ids=KEPT)
def test_a_response_may_come_byte_by_byte(sent: bytes, answer: Response) -> None:
    assert asyncio.run(feed(cut(sent, set(range(len(sent)))), close=False)) == answer
