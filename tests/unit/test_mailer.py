import asyncio
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.email.mail import Mail, SmtpServer, TimeLimits, Unanswered, default_helo
from functions.email.mailer import Mailer
from functions.email.smtp import SmtpSender, ascii_domain, compose, message_id, parse_sender
from milepost.errors import ConfigurationError, Defer, Unavailable
from tests.contract.smtp import SmtpServer as RealServer
from tests.servers import ANSWER_WITHIN, HOST, eventually, free_port

MAIL = Mail(id="7", to="ada@example.org", text="You are 0.0 miles from Velocity.")
SENDER = "Velocity <velocity@example.org>"


def mailer(folder: Path, server: SmtpServer, *, sender: str = SENDER, timeout: float = 30.0) -> Mailer:
    return Mailer(folder / "sent", SmtpSender(server, parse_sender(sender), timeout=timeout))


def soon(**sooner: float) -> TimeLimits:
    """Limits that no test reaches, except for those that are given in seconds from now."""
    now = asyncio.get_running_loop().time()
    names = [field.name for field in fields(TimeLimits)]
    return TimeLimits(**{name: now + sooner.get(name, ANSWER_WITHIN) for name in names})


async def test_appends_exactly_one_line(tmp_path: Path) -> None:
    path = tmp_path / "sent_emails"
    path.write_text("before\n")
    await Mailer(sent_emails=path).send(MAIL, soon())
    assert path.read_text() == ("before\nEmail sent to: ada@example.org; Message: You are 0.0 miles from Velocity.\n")


async def test_line_goes_to_stdout_without_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    await Mailer().send(MAIL, soon())
    assert capfd.readouterr().out == "Email sent to: ada@example.org; Message: You are 0.0 miles from Velocity.\n"


async def test_a_line_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="SENT_EMAILS: Is a directory"):
        await Mailer(sent_emails=tmp_path).send(MAIL, soon())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
async def test_a_full_disk_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="No space left"):
        await Mailer(sent_emails=Path("/dev/full")).send(MAIL, soon())


async def test_unreachable_smtp_server_is_unavailable_and_writes_no_line(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="SMTP: "):
        await mailer(tmp_path, SmtpServer("smtp", HOST, free_port())).send(MAIL, soon())
    assert not (tmp_path / "sent").exists()


async def test_silent_smtp_server_times_out(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as silent:  # connects, and is never read from
        server = SmtpServer("smtp", HOST, silent.getsockname()[1])
        with pytest.raises(Unavailable, match=r"SMTP: .*Timeout"):
            await mailer(tmp_path, server, timeout=0.2).send(MAIL, soon())


@pytest.mark.filterwarnings("ignore:Requiring AUTH", "ignore:Session.login_data is deprecated")  # aiosmtpd's own
async def test_wrong_login_is_unavailable_and_shows_no_secret(tmp_path: Path) -> None:
    with RealServer(login=(b"ada", b"p@ss")) as smtp:
        with pytest.raises(Unavailable, match="535") as fault:
            await mailer(tmp_path, SmtpServer("smtp", HOST, smtp.port, "ada", "secret")).send(MAIL, soon())
        assert "secret" not in str(fault.value)
        await mailer(tmp_path, SmtpServer.parse(f"smtp://ada:p%40ss@{HOST}:{smtp.port}")).send(MAIL, soon())
        assert len(smtp.inbox.messages) == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
async def test_starttls_needs_a_certificate_that_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=IP:{HOST}"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*new, *subject, *files], check=True, capture_output=True)  # noqa: ASYNC221 - a few milliseconds
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    with RealServer(tls=tls) as smtp:
        secured = mailer(tmp_path, SmtpServer("smtp+starttls", HOST, smtp.port))
        with pytest.raises(Unavailable, match=r"CERTIFICATE_VERIFY_FAILED|certificate"):
            await secured.send(MAIL, soon())
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        await secured.send(MAIL, soon())
        assert len(smtp.inbox.messages) == 1


async def test_server_without_starttls_gets_no_mail(tmp_path: Path) -> None:
    with RealServer() as smtp:
        with pytest.raises(Unavailable, match=r"SMTPException|NotSupported|STARTTLS"):
            await mailer(tmp_path, SmtpServer("smtp+starttls", HOST, smtp.port)).send(MAIL, soon())
        assert smtp.inbox.messages == []


@pytest.fixture
def relay() -> Iterator[RealServer]:
    with RealServer() as server:
        yield server


def sender(relay: RealServer, *, host: str = HOST, timeout: float = ANSWER_WITHIN, connections: int = 10) -> SmtpSender:
    server = SmtpServer("smtp", host, relay.port)
    return SmtpSender(server, parse_sender(SENDER), timeout=timeout, connections=connections)


async def test_wait_for_the_reply_to_a_message_is_longer_than_the_time_out(relay: RealServer) -> None:
    """RFC 5321 gives the server ten minutes: it has the message, and may scan it before it answers."""
    for timeout in (0.2, 2.0, 20.0):  # on a busy machine the time-out may be over before the message is sent

        async def answer(late: float = timeout) -> str:
            await asyncio.sleep(late)
            return "250 OK"

        relay.inbox.answer = answer
        try:
            await sender(relay, timeout=timeout).send(MAIL, soon())
        except Unavailable:
            continue
        break
    assert len(relay.inbox.messages) == 1


async def test_message_without_a_reply_in_the_request_may_be_out(relay: RealServer) -> None:
    relay.inbox.answer = lambda: asyncio.sleep(ANSWER_WITHIN, "250 OK")
    with pytest.raises(Unanswered, match=r"TimeoutError.*did not reply"):
        await sender(relay).send(MAIL, soon(reply=0.2))
    await eventually(lambda: len(relay.inbox.messages) == 1)


async def test_message_without_a_reply_is_lone_if_the_server_takes_another_meanwhile(relay: RealServer) -> None:
    smtp = sender(relay)

    async def send_two() -> None:
        async with connection_in_use(smtp, relay, reply="none of your business"):
            relay.inbox.answer = lambda: "250 OK"
            await smtp.send(MAIL, soon())

    with pytest.raises(Unanswered) as fault:
        await send_two()
    assert fault.value.lone


async def test_message_is_not_sent_in_the_second_half_of_the_request(relay: RealServer) -> None:
    """The server would have too little time for its reply, and the mail would be sent twice."""
    relay.inbox.recipient = lambda _: time.sleep(0.2) or "250 OK"
    with pytest.raises(Unavailable, match="TimeoutError"):
        await sender(relay).send(MAIL, soon(message=0.1))
    assert relay.inbox.messages == []


@pytest.mark.parametrize("reply", ["", "none of your business"])
async def test_message_whose_reply_cannot_be_read_may_be_out(relay: RealServer, reply: str) -> None:
    relay.inbox.hangs_up_on_message = not reply
    relay.inbox.answer = lambda: reply or "250 OK"
    with pytest.raises(Unanswered) as fault:
        await sender(relay).send(MAIL, soon())
    assert not fault.value.lone
    assert len(relay.inbox.messages) == 1


async def test_any_2xx_accepts_the_message(relay: RealServer) -> None:
    relay.inbox.answer = lambda: "252 queued"
    await sender(relay).send(MAIL, soon())


async def test_lines_that_begin_with_a_dot_arrive_whole(relay: RealServer) -> None:
    await sender(relay).send(Mail(id="7", to="ada@example.org", text=".\n..two\n. end"), soon())
    [message] = relay.inbox.messages
    assert message.get_payload() == ".\r\n..two\r\n. end\r\n"


async def deliver(smtp: SmtpSender, mail: Mail, limits: TimeLimits) -> None:
    async with smtp.connection(limits):
        await smtp.send(mail, limits)


@asynccontextmanager
async def connection_in_use(smtp: SmtpSender, relay: RealServer, *, reply: str = "250 OK") -> AsyncIterator[None]:
    """In the body the server has the message of one mail. It replies after the body."""
    begun, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def answer() -> str:
        loop.call_soon_threadsafe(begun.set)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ended.wait(), loop))
        return reply

    relay.inbox.answer = answer
    sending = asyncio.create_task(deliver(smtp, replace(MAIL, id="in-use"), soon()))
    beginning = asyncio.create_task(begun.wait())
    try:
        await asyncio.wait([sending, beginning], return_when=asyncio.FIRST_COMPLETED)
        assert begun.is_set()
        yield
    finally:
        beginning.cancel()
        ended.set()
        await sending


async def test_server_that_has_enough_connections_defers_the_mail_alone(relay: RealServer) -> None:
    """It serves the others, so the route is not down."""
    smtp = sender(relay)
    async with connection_in_use(smtp, relay):
        relay.inbox.sender = lambda _: "421 4.7.0 too many connections"
        with pytest.raises(Defer, match="421"):
            await smtp.send(MAIL, soon())
    with pytest.raises(Unavailable, match="421"):
        await smtp.send(replace(MAIL, id="8"), soon())


@pytest.mark.parametrize("addresses", [[HOST], [HOST, "127.0.0.2"], ["224.0.0.1", HOST]])
async def test_server_that_takes_no_more_connections_defers_the_mail_alone(
    relay: RealServer, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    """Nothing can connect to 224.0.0.1: the system says at once that there is no route, as for IPv6 without one."""

    def found(_: str, port: int, *__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    smtp = sender(relay, host="mail.example.org")
    async with connection_in_use(smtp, relay):
        relay.stop_listening()
        with pytest.raises(Defer, match="SMTPConnectError"):
            await smtp.send(MAIL, soon())
    with pytest.raises(Unavailable, match="SMTPConnectError"):
        await smtp.send(MAIL, soon())


@pytest.mark.filterwarnings("ignore:Requiring AUTH", "ignore:Session.login_data is deprecated")  # aiosmtpd's own
async def test_wrong_login_is_unavailable_also_beside_a_connection_that_is_served() -> None:
    """As after a change of the password."""
    with RealServer(login=(b"ada", b"old")) as relay:
        smtp = SmtpSender(
            SmtpServer("smtp", HOST, relay.port, "ada", "old"), parse_sender(SENDER), timeout=ANSWER_WITHIN
        )
        async with connection_in_use(smtp, relay):
            relay.login = (b"ada", b"new")
            with pytest.raises(Unavailable, match="535"):
                await smtp.send(MAIL, soon())


async def test_mail_waits_for_one_of_the_connections(relay: RealServer) -> None:
    smtp = sender(relay, connections=1)
    async with connection_in_use(smtp, relay):
        with pytest.raises(Defer, match="in use"):
            await deliver(smtp, MAIL, soon(connection=0.05))
        waiting = asyncio.create_task(deliver(smtp, MAIL, soon()))
        await asyncio.sleep(0)
        assert len(relay.inbox.helo_names) == 1
    await waiting
    assert [message["Message-ID"] for message in relay.inbox.messages] == ["<in-use@milepost>", "<7@milepost>"]


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=256))
def test_every_id_has_a_message_id_of_its_own(event_id: str) -> None:
    found = message_id(event_id)
    assert found.startswith("<")
    assert found.endswith("@milepost>")
    assert len(found) < 250
    assert found.isascii()
    assert found.count("@") == 1
    assert not set(found[1:-1]) & set(' \t\r\n<>()[],;:\\"')
    assert (message_id(event_id + "x") == found) is False


def test_a_uuid_is_its_own_message_id() -> None:
    assert message_id("0198c7a2-0000-7000-8000-000000000000") == "<0198c7a2-0000-7000-8000-000000000000@milepost>"


def test_the_message_is_plain_text() -> None:
    message = message_from_bytes(
        compose(MAIL, parse_sender("Velocity <v@example.org>"), ascii_domain(MAIL.to)).as_bytes(), policy=default
    )
    assert message["To"] == "ada@example.org"
    assert message["From"] == "Velocity <v@example.org>"
    assert message.get_content_type() == "text/plain"
    assert message.get_content() == MAIL.text + "\r\n"
    assert message["Message-ID"] == "<7@milepost>"
    assert not message.defects


@pytest.mark.parametrize("to", ["ada@example.org\r\nBcc: eve@example.org", "ada@example.org, eve@example.org"])
def test_addresses_cannot_inject_headers(to: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ascii_domain(to)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example.org", SmtpServer("smtp", "mail.example.org", 25)),
        ("smtps://mail", SmtpServer("smtps", "mail", 465)),
        ("smtp+starttls://ada:p%40ss@mail:2525", SmtpServer("smtp+starttls", "mail", 2525, "ada", "p@ss")),
        ("smtp://[::1]:25/", SmtpServer("smtp", "::1", 25)),
        ("smtp://ada@example.org:p@ss@mail", SmtpServer("smtp", "mail", 25, "ada@example.org", "p@ss")),
        ("SMTPS://ada:%2523@b\u00fccher.example", SmtpServer("smtps", "xn--bcher-kva.example", 465, "ada", "%23")),
    ],
)
def test_smtp_urls(url: str, server: SmtpServer) -> None:
    assert SmtpServer.parse(url) == server
    assert "p@ss" not in repr(SmtpServer.parse(url))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SMTP_URL", "http://ada:secret@mail", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", "smtp://ada:secret@mail:port", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", "smtp://ada@mail", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", "smtp://", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", "smtp://ada:12#secret@mail", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", "smtp://ada:12/secret@mail", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", "smtp://ada:12?secret@mail", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", "smtp://ada:x@secret#y@mail", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", "smtp://ada:x@secret/y@mail", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", "smtp://ada:sec ret@mail", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", "smtp://ada:[secret@mail", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", "smtp://secret:[::1]@mail", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", "smtp://ada:sec\x00ret@mail", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", f"smtp://{'a' * 64}.example.org", "SMTP_URL: must look like smtps://"),
        ("SMTP_URL", "mail.example.org", "SMTP_URL: must look like smtps://"),
        ("SMTP_TIMEOUT", "soon", "SMTP_TIMEOUT: must be a number of seconds"),
        ("SMTP_TIMEOUT", "0", "SMTP_TIMEOUT: must be a number of seconds"),
        ("SMTP_TIMEOUT", "nan", "SMTP_TIMEOUT: must be a number of seconds"),
        ("MAIL_FROM", "me\nBcc: eve@example.org", "MAIL_FROM: must be one address"),
        ("MAIL_FROM", "me", "MAIL_FROM: must be one address"),
        ("MAIL_FROM", "a b@example.org, c", "MAIL_FROM: must be one address"),
        ("MAIL_FROM", "Me <me@>", "MAIL_FROM: must be one address"),
        ("MAIL_FROM", "Velocity, Inc. <no-reply@example.org>", "MAIL_FROM: must be one address"),
        ("MAIL_FROM", "a@example.org, b@example.org", "MAIL_FROM: must be one address"),
        ("MAIL_FROM", "Us: a@example.org;", "MAIL_FROM: must be one address"),
        ("MAIL_FROM", "<>", "MAIL_FROM: must be one address"),
        ("MAIL_FROM", "", "MAIL_FROM: must be one address"),
        ("MAIL_FROM", "me@-example.org", "MAIL_FROM: must be one address"),
        ("SMTP_CONNECTIONS", "0", "SMTP_CONNECTIONS: must be a whole number"),
        ("SMTP_CONNECTIONS", "2.5", "SMTP_CONNECTIONS: must be a whole number"),
        ("SMTP_HELO", "laptop", "SMTP_HELO: must be a domain name"),
        ("SMTP_HELO", "mail.example.org\r\nRSET", "SMTP_HELO: must be a domain name"),
        ("SMTP_HELO", "b\u00fccher.example", "SMTP_HELO: must be a domain name"),
    ],
)
def test_wrong_setting_is_named_without_its_secret(name: str, value: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as fault:
        Mailer.read({"SMTP_URL": "smtp://mail", name: value})
    assert "secret" not in str(fault.value)


def test_wrong_sender_is_refused_without_smtp_too() -> None:
    with pytest.raises(ConfigurationError, match="MAIL_FROM: must be one address"):
        Mailer.read({"MAIL_FROM": "Velocity, Inc. <no-reply@example.org>"})
    with pytest.raises(ConfigurationError, match="SMTP_HELO: must be a domain name"):
        Mailer.read({"SMTP_HELO": "laptop"})


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("Milepost <milepost@localhost>", "milepost@localhost"),
        ('"Velocity, Inc." <no-reply@example.org>', "no-reply@example.org"),
        ("Acme Co. <no-reply@example.org>", "no-reply@example.org"),
        ("Zo\u00eb <zoe@b\u00fccher.example>", "zoe@xn--bcher-kva.example"),
        ("zo\u00eb@example.org", "zo\u00eb@example.org"),
        ("no-reply@mail.corp.local", "no-reply@mail.corp.local"),
    ],
)
def test_senders(text: str, address: str) -> None:
    assert parse_sender(text).addr_spec == address


def test_the_name_in_ehlo_has_a_dot_or_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_helo("example.org") == "example.org"
    monkeypatch.setattr(socket, "gethostname", lambda: "pod-7")
    assert default_helo("localhost") == "[127.0.0.1]"
    monkeypatch.setattr(socket, "gethostname", lambda: "mail.example.com")
    assert default_helo("localhost") == "mail.example.com"


def test_settings_have_defaults() -> None:
    assert Mailer.read({}) == Mailer(sent_emails=None, smtp=None)
    assert Mailer.read({"SENT_EMAILS": "", "SMTP_URL": ""}) == Mailer()
