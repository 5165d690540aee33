"""The exceptions of the client, and the failures after which it tries once more."""

import asyncio
import gc
import shutil
import ssl
import subprocess
import weakref
from pathlib import Path

import pytest

from milepost.bridge.http import client as module
from milepost.bridge.http.client import Client, Lost, NotSent
from milepost.bridge.http.connection import Connection
from tests.peer import EMPTY, Line, Peer, answer_all, never_answer, on_each_loop, post
from tests.servers import eventually, free_port

# A connection that closes


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@on_each_loop
async def test_a_reused_connection_that_closes_unheard_is_tried_once_more_on_a_new_one(reset: bool) -> None:
    async def script(line: Line) -> None:
        if line is not peer.lines[0]:
            await answer_all(line)
        await line.request()
        line.write(EMPTY)
        await line.request()
        if reset:
            line.reset()

    async with Peer(script) as peer:
        client = Client(peer.url)
        assert [(await post(client, body)).status for body in (b"1", b"2")] == [204, 204]
        assert [[request[-1:] for request in line.requests] for line in peer.lines] == [[b"1", b"2"], [b"2"]]
        await client.close()


@on_each_loop
async def test_the_second_try_takes_no_kept_connection_and_is_the_last() -> None:
    async def script(line: Line) -> None:
        await line.request()
        if line in peer.lines[:3]:
            await together.wait()
            line.write(EMPTY)
            await line.request()

    together = asyncio.Barrier(3)
    async with Peer(script) as peer:
        client = Client(peer.url)
        await asyncio.gather(*(post(client) for _ in range(3)))
        with pytest.raises(Lost, match="closed the connection before it responded") as lost:
            await post(client)
        assert not lost.value.timed_out
        assert [len(line.requests) for line in peer.lines[3:]] == [1]
        assert sorted(len(line.requests) for line in peer.lines[:3]) == [1, 1, 2]
        await client.close()


@on_each_loop
async def test_a_request_that_was_sent_is_lost_even_if_its_second_try_finds_nobody() -> None:
    async def script(line: Line) -> None:
        await line.request()
        line.write(EMPTY)
        await line.request()
        peer.refuse()

    async with Peer(script) as peer:
        client = Client(peer.url)
        await post(client)
        with pytest.raises(Lost, match=r"closed the connection before it responded.*; then ") as lost:
            await post(client)
        assert not lost.value.timed_out
        await client.close()


@on_each_loop
async def test_a_reused_connection_that_closes_within_its_response_is_lost() -> None:
    async def script(line: Line) -> None:
        await line.request()
        line.write(EMPTY)
        await line.request()
        line.write(b"H")

    async with Peer(script) as peer:
        client = Client(peer.url)
        await post(client)
        with pytest.raises(Lost, match="in the middle of its response"):
            await post(client)
        assert len(peer.lines) == 1
        await client.close()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@on_each_loop
async def test_a_new_connection_that_closes_after_the_request_is_lost(reset: bool) -> None:
    async def script(line: Line) -> None:
        await line.request()
        if reset:
            line.reset()

    async with Peer(script) as peer:
        client = Client(peer.url)
        with pytest.raises(Lost, match="closed the connection before it responded") as lost:
            await post(client)
        assert not lost.value.timed_out
        assert len(peer.lines) == 1
        await client.close()


# No connection


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid", "a" * 64 + ".invalid"])
@on_each_loop
async def test_request_without_a_connection_was_not_sent(host: str) -> None:
    client = Client(f"http://{host}:{free_port()}/hooks/secret?token=secret")
    with pytest.raises(NotSent, match=f"^http://{host}:") as fault:
        await post(client)
    assert "secret" not in str(fault.value)
    await client.close()


@pytest.mark.parametrize(("connect_timeout", "within"), [(0.05, 10), (10, 0.05)], ids=["its own", "the post's"])
@on_each_loop
async def test_a_connection_not_made_in_time_was_not_sent(connect_timeout: float, within: float) -> None:
    async with Peer(Line.closed) as peer:  # accepts, and then says nothing of TLS
        client = Client(peer.url.replace("http", "https"), connect_timeout=connect_timeout)
        with pytest.raises(NotSent, match="no connection in time"):
            await post(client, within=within)
        await eventually(lambda: peer.lines)
        await peer.lines[0].hung_up.wait()
        await client.close()


@on_each_loop
async def test_a_connection_that_is_lost_as_soon_as_it_is_made_was_sent_nothing() -> None:
    class Vanishing(Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            transport.abort()  # type: ignore[attr-defined]

    async with Peer(answer_all) as peer:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "Connection", Vanishing)
            client = Client(peer.url)
            with pytest.raises(NotSent, match="closed the connection before anything was sent"):
                await post(client)
        await eventually(lambda: not client._connections, what="the lost connection is forgotten")
        await client.close()


@on_each_loop
async def test_cancelling_while_it_connects_leaves_nothing_behind() -> None:
    async with Peer(Line.closed) as peer:
        client = Client(peer.url.replace("http", "https"))
        posting = asyncio.create_task(post(client))
        await eventually(lambda: peer.lines)
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        await peer.lines[0].hung_up.wait()
        assert not client._connections
        await client.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@on_each_loop
async def test_cancelling_just_as_it_has_connected_closes_the_connection(tls: bool, certificate: Path) -> None:
    class Cancelling(Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            posting.cancel()

    async with Peer(answer_all, tls=server_context(certificate) if tls else None) as peer:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "Connection", Cancelling)
            client = Client(peer.url, ssl_context=ssl.create_default_context(cafile=certificate))
            posting = asyncio.create_task(post(client))
            with pytest.raises(asyncio.CancelledError):
                await posting
        await eventually(lambda: peer.lines)
        await peer.lines[0].hung_up.wait()
        assert not client._connections
        assert not peer.requests
        await client.close()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1, in one file."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key", folder / "cert"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
    )
    both = folder / "both"
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@on_each_loop
async def test_tls(certificate: Path) -> None:
    async with Peer(answer_all, tls=server_context(certificate)) as peer:
        client = Client(peer.url, ssl_context=ssl.create_default_context(cafile=certificate))
        for _ in range(3):
            assert (await post(client, b"x" * 200_000)).status == 204
        assert len(peer.lines) == 1
        await client.close()
        await peer.lines[0].hung_up.wait()


@on_each_loop
async def test_a_server_whose_certificate_is_not_trusted_was_sent_nothing(certificate: Path) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's complaint about the client
    async with Peer(answer_all, tls=server_context(certificate)) as peer:
        client = Client(peer.url)
        with pytest.raises(NotSent, match=r"(?i)certificate.verify.failed"):
            await post(client)
        assert not peer.lines
        await client.close()


@on_each_loop
async def test_a_server_that_speaks_no_tls_was_sent_nothing() -> None:
    async def script(line: Line) -> None:
        line.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with Peer(script) as peer:
        client = Client(peer.url.replace("http", "https"))
        with pytest.raises(NotSent):
            await post(client)
        await client.close()


# References and connections that are left


@pytest.mark.parametrize("closing", [True, False], ids=["closed", "timed out"])
@on_each_loop
async def test_a_failure_is_freed_with_its_body_by_itself(closing: bool) -> None:
    async def script(line: Line) -> None:
        await line.request()
        if not closing:
            await never_answer(line)

    async def lost(client: Client) -> "weakref.ref[Lost]":
        try:
            await post(client, within=60 if closing else 0.05)
        except Lost as fault:
            return weakref.ref(fault)
        raise AssertionError("it was answered")

    async with Peer(script) as peer:
        client = Client(peer.url)
        gc.disable()
        try:
            fault = await lost(client)
            await eventually(lambda: fault() is None)
        finally:
            gc.enable()
        await client.close()
