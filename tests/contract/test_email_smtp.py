"""The stage `email` with a real SMTP server that refuses mails, and with processes that die while a mail is sent."""

from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pymongo import MongoClient

from tests.contract.contract import lines, refused, send, structured
from tests.contract.smtp import ACCEPTED, SmtpServer
from tests.contract.test_email_stage import ADA, LINE, SENT, TestEmail, keep
from tests.servers import ANSWER_WITHIN, Function, Mongo, wait_for

# Test classes that are only read here are not to be run here.
make = TestEmail().make
del TestEmail

FROM = "Velocity <velocity@example.org>"


@pytest.fixture(scope="module")
def smtp_server() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture
def smtp(smtp_server: SmtpServer) -> SmtpServer:
    smtp_server.inbox.reset()
    return smtp_server


@pytest.fixture(scope="module")
def shared_env(
    mongo_server: Mongo, smtp_server: SmtpServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    return {
        "MONGO_URL": f"{mongo_server.url}/smtp-{uuid4().hex}",
        "SENT_EMAILS": str(tmp_path_factory.mktemp("mails") / "sent"),
        "SMTP_URL": smtp_server.url,
        "SMTP_TIMEOUT": "20",
        "MAIL_FROM": FROM,
    }


@pytest.fixture
def env(shared_env: dict[str, str]) -> dict[str, str]:
    Path(shared_env["SENT_EMAILS"]).unlink(missing_ok=True)
    return dict(shared_env)


@pytest.fixture
def mongo_url(env: dict[str, str]) -> str:
    return env["MONGO_URL"]


@pytest.fixture(scope="module")
def email(shared_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    with Function(tmp_path_factory.mktemp("email"), "email", env=shared_env) as function:
        yield function


def prepared(mongo_url: str, address: str = ADA) -> dict[str, Any]:
    event = make(data=address)
    with MongoClient[dict[str, Any]](mongo_url) as client:
        keep(client.get_default_database(), event)
    return event


def record(mongo_url: str, event: dict[str, Any]) -> dict[str, Any]:
    with MongoClient[dict[str, Any]](mongo_url, tz_aware=True) as client:
        found = client.get_default_database()["mails"].find_one({"_id": event["id"]})
    assert found is not None
    return found


def expire(mongo_url: str, event: dict[str, Any]) -> None:
    with MongoClient[dict[str, Any]](mongo_url) as client:
        mails = client.get_default_database()["mails"]
        mails.update_one({"_id": event["id"]}, {"$set": {"until": datetime.now(UTC)}})


def test_mail_is_plain_text_and_its_line_is_written_after_it(
    email: Function, smtp: SmtpServer, mongo_url: str, env: dict[str, str]
) -> None:
    event = prepared(mongo_url)
    assert send(email.url, event).json() == SENT
    assert send(email.url, event).json() == SENT
    [message], [envelope] = smtp.inbox.messages, smtp.inbox.envelopes
    assert envelope.mail_from == "velocity@example.org"
    assert envelope.rcpt_tos == [ADA]
    assert message["From"] == FROM
    assert message["To"] == ADA
    assert message["Message-ID"] == f"<{event['id']}@milepost>"
    assert message["Date"]
    assert message["Subject"] == "Your distance from Velocity"
    assert message.get_content_type() == "text/plain"
    assert message.get_payload() == SENT["message"] + "\r\n"
    assert lines(Path(env["SENT_EMAILS"])) == [LINE]


def test_ids_and_addresses_of_any_characters_break_no_header(email: Function, smtp: SmtpServer, mongo_url: str) -> None:
    event = prepared(mongo_url, "jörg.$x'@bücher.example") | {"id": '<a>@b ..ü, "c"\u2028d'}
    assert send(email.url, event, structured).status_code == 200
    [message], [envelope] = smtp.inbox.messages, smtp.inbox.envelopes
    assert message["Message-ID"] == "<%3Ca%3E%40b%20%2E%2E%C3%BC%2C%20%22c%22%E2%80%A8d@milepost>"
    assert envelope.rcpt_tos == ["jörg.$x'@xn--bcher-kva.example"]
    assert len(message.keys()) == len(set(message.keys()))


def test_refused_recipient_gets_422_and_the_record_is_freed(
    email: Function, smtp: SmtpServer, mongo_url: str, env: dict[str, str]
) -> None:
    event = prepared(mongo_url)
    smtp.inbox.recipient = lambda _: "550 no such mailbox"
    assert "550 no such mailbox" in refused(send(email.url, event), 422)["detail"]
    assert lines(Path(env["SENT_EMAILS"])) == []
    smtp.inbox.recipient = lambda _: ACCEPTED
    assert send(email.url, event).status_code == 200
    assert record(mongo_url, event)["taken"] == 2


@pytest.mark.parametrize(
    ("where", "reply"),
    [
        ("sender", "550 5.7.60 not allowed to send as this sender"),
        ("sender", "550 no such user"),
        ("sender", "452 4.3.1 insufficient system storage"),
        ("recipient", "550 5.4.5 daily sending quota exceeded"),
        ("recipient", "554 5.7.1 relay access denied"),
        ("recipient", "530 5.7.0 authentication required"),
        ("recipient", "504 5.5.2 need fully-qualified hostname"),
        ("recipient", "421 4.3.2 closing"),
        ("recipient", "550-relaying is\r\n550 not allowed: authentication required"),
        ("answer", "554 Message rejected: Email address is not verified."),
        ("answer", "451 local error"),
        ("answer", "421 closing"),
    ],
)
def test_fault_of_the_account_or_relay_gets_503_and_a_log_line(
    email: Function, smtp: SmtpServer, mongo_url: str, env: dict[str, str], where: str, reply: str
) -> None:
    event = prepared(mongo_url)
    before = email.log
    setattr(smtp.inbox, where, lambda *_: reply)
    response = send(email.url, event)
    assert reply.split("\r\n", maxsplit=1)[0][4:] in refused(response, 503)["detail"]
    assert int(response.headers["retry-after"]) >= 1
    wait_for(lambda: f"id={event['id']} outcome=unavailable status=503" in email.log.removeprefix(before))
    assert lines(Path(env["SENT_EMAILS"])) == []
    assert record(mongo_url, event)["until"] < datetime.now(UTC)

    setattr(smtp.inbox, where, lambda *_: ACCEPTED)
    assert send(email.url, event).json() == SENT
    assert lines(Path(env["SENT_EMAILS"])) == [LINE]


@pytest.mark.parametrize(
    ("where", "reply"),
    [
        ("recipient", "452 4.2.2 over quota"),
        ("recipient", "450 4.2.0 greylisted"),
        ("recipient", "451 greylisted"),
        ("recipient", "450-4.2.1 receiving mail\r\n450 4.2.1 too quickly"),
        ("answer", "452 4.2.2 over quota"),
    ],
)
def test_passing_fault_of_a_recipient_defers_its_mail_longer_each_time(
    email: Function, smtp: SmtpServer, mongo_url: str, where: str, reply: str
) -> None:
    event = prepared(mongo_url)
    setattr(smtp.inbox, where, lambda *_: reply)
    for wait in ("5", "10", "20"):
        response = send(email.url, event)
        assert refused(response, 409)["title"] == "Deferred"
        assert response.headers["retry-after"] == wait
    setattr(smtp.inbox, where, lambda *_: ACCEPTED)
    assert send(email.url, event).json() == SENT


@pytest.mark.parametrize(
    ("where", "reply"),
    [
        ("recipient", "550 5.1.1 no such user"),
        ("recipient", "553 no such mailbox"),
        ("recipient", "550-5.1.1 no\r\n550 5.1.1 such user"),
        ("answer", "550 5.1.1 no such user"),
        ("answer", "552 5.3.4 too large"),
    ],
)
def test_final_fault_of_a_recipient_gets_422(
    email: Function, smtp: SmtpServer, mongo_url: str, where: str, reply: str
) -> None:
    setattr(smtp.inbox, where, lambda *_: reply)
    refused(send(email.url, prepared(mongo_url)), 422)


def test_each_mail_of_a_batch_has_its_own_answer(email: Function, smtp: SmtpServer, mongo_url: str) -> None:
    replies = {
        "ada@example.org": ACCEPTED,
        "full@example.org": "452 4.2.2 over quota",
        "gone@example.org": "550 5.1.1 no such user",
        "denied@example.org": "554 5.7.1 relay access denied",
        "eve@example.org": ACCEPTED,
    }
    smtp.inbox.recipient = replies.__getitem__
    events = [prepared(mongo_url, address) for address in replies]
    response = httpx.post(
        email.url, json=events, headers={"content-type": "application/cloudevents-batch+json"}, timeout=ANSWER_WITHIN
    )
    assert response.status_code == 207
    assert [(one["id"], one["status"], one.get("retryAfter")) for one in response.json()] == [
        (event["id"], *expected)
        for event, expected in zip(events, [(200, None), (409, 5), (422, None), (503, 5), (200, None)], strict=True)
    ]


@pytest.mark.parametrize("reply", ["554 5.7.1 denied", ""])
def test_refusal_of_one_mail_while_others_pass_defers_that_mail(
    email: Function, smtp: SmtpServer, mongo_url: str, reply: str
) -> None:
    """The relay takes other mails between two refusals of one: then it is no fault of the relay."""
    event = prepared(mongo_url, "blocked@example.org")
    smtp.inbox.recipient = lambda to: reply if to.startswith("blocked") else ACCEPTED
    smtp.inbox.hangs_up_on_recipient = "" if reply else "blocked@example.org"
    refused(send(email.url, event), 503)
    refused(send(email.url, event), 503)
    assert send(email.url, prepared(mongo_url)).status_code == 200
    refused(send(email.url, event), 409)
    refused(send(email.url, event), 503)  # no other mail was accepted since


def test_the_name_in_ehlo_is_the_senders_domain_or_smtp_helo(
    email: Function, smtp: SmtpServer, mongo_url: str, env: dict[str, str], tmp_path: Path
) -> None:
    assert send(email.url, prepared(mongo_url)).status_code == 200
    with Function(tmp_path, "email", env={**env, "SMTP_HELO": "mail.example.net"}) as named:
        assert send(named.url, prepared(mongo_url)).status_code == 200
    assert smtp.inbox.helo_names == ["example.org", "mail.example.net"]


def test_non_ascii_sender_name_and_domain_are_encoded(
    smtp: SmtpServer, mongo_url: str, env: dict[str, str], tmp_path: Path
) -> None:
    sender = '"Zo\u00eb, Inc." <zoe@b\u00fccher.example>'
    with Function(tmp_path, "email", env={**env, "MAIL_FROM": sender}) as email:
        assert send(email.url, prepared(mongo_url)).json() == SENT
    [message], [envelope] = smtp.inbox.messages, smtp.inbox.envelopes
    assert envelope.mail_from == "zoe@xn--bcher-kva.example"
    assert envelope.mail_options == []
    assert smtp.inbox.helo_names == ["xn--bcher-kva.example"]
    header = message_from_bytes(message.as_bytes(), policy=default)["From"]
    assert (header.addresses[0].display_name, header.addresses[0].domain) == ("Zo\u00eb, Inc.", "xn--bcher-kva.example")


def test_non_ascii_addresses_without_smtputf8_are_refused(mongo_url: str, env: dict[str, str], tmp_path: Path) -> None:
    """A recipient's is that mail's final fault; a sender's is the setting's, so events wait."""
    with SmtpServer(utf8_addresses=False) as ascii_server:
        env["SMTP_URL"] = ascii_server.url
        with Function(tmp_path, "email", env=env) as email:
            detail = refused(send(email.url, prepared(mongo_url, "j\u00f6rg@example.org")), 422)["detail"]
            assert "SMTPUTF8" in detail
            assert send(email.url, prepared(mongo_url, "ada@b\u00fccher.example")).status_code == 200
        with Function(tmp_path, "email", env={**env, "MAIL_FROM": "zo\u00eb@example.org"}) as email:
            detail = refused(send(email.url, prepared(mongo_url)), 503)["detail"]
            assert detail.startswith("MAIL_FROM: ")
        assert [envelope.rcpt_tos for envelope in ascii_server.inbox.envelopes] == [["ada@xn--bcher-kva.example"]]


@pytest.mark.filterwarnings("ignore:Requiring AUTH", "ignore:Session.login_data is deprecated")  # aiosmtpd's own
def test_wrong_login_gets_503(mongo_url: str, env: dict[str, str], tmp_path: Path) -> None:
    with SmtpServer(login=(b"ada", b"right")) as server:
        env["SMTP_URL"] = server.url.replace("smtp://", "smtp://ada:hush@")
        with Function(tmp_path, "email", env=env) as email:
            assert "SMTP AUTH: 535" in refused(send(email.url, prepared(mongo_url)), 503)["detail"]
            wait_for(lambda: "outcome=unavailable status=503" in email.log)
            assert "hush" not in email.log


def test_message_that_got_no_reply_is_sent_again_after_a_growing_time(
    email: Function, smtp: SmtpServer, mongo_url: str, env: dict[str, str]
) -> None:
    """It may be out, so it is no fault of the route that is probed every few seconds."""
    event = prepared(mongo_url)
    smtp.inbox.hangs_up_on_message = True
    for copies, wait in ((1, 60), (2, 120)):
        response = send(email.url, event)
        assert "did not reply" in refused(response, 503)["detail"]
        assert response.headers["retry-after"] == str(wait)
        assert record(mongo_url, event)["unanswered"] == copies

        early = send(email.url, event)
        assert "did not answer" in refused(early, 409)["detail"]
        assert 0 < int(early.headers["retry-after"]) <= wait
        assert len(smtp.inbox.messages) == copies
        expire(mongo_url, event)
    assert lines(Path(env["SENT_EMAILS"])) == []

    smtp.inbox.hangs_up_on_message = False
    assert send(email.url, event).json() == SENT
    assert [message["Message-ID"] for message in smtp.inbox.messages] == [f"<{event['id']}@milepost>"] * 3


def test_message_that_got_no_reply_while_others_pass_defers_that_mail(
    email: Function, smtp: SmtpServer, mongo_url: str
) -> None:
    event = prepared(mongo_url)
    smtp.inbox.hangs_up_on_message = True
    refused(send(email.url, event), 503)
    smtp.inbox.hangs_up_on_message = False
    assert send(email.url, prepared(mongo_url)).status_code == 200
    smtp.inbox.hangs_up_on_message = True
    expire(mongo_url, event)
    response = send(email.url, event)
    refused(response, 409)
    assert response.headers["retry-after"] == "120"


def test_mail_is_sent_if_the_server_hangs_up_after_its_250(email: Function, smtp: SmtpServer, mongo_url: str) -> None:
    smtp.inbox.hangs_up_on_quit = True
    assert send(email.url, prepared(mongo_url)).json() == SENT
    assert len(smtp.inbox.messages) == 1


def test_mail_is_sent_again_after_a_kill_between_the_250_and_the_mark(
    tmp_path: Path, smtp: SmtpServer, env: dict[str, str]
) -> None:
    with Mongo(tmp_path) as mongo:
        env["MONGO_URL"] = url = f"{mongo.url}/x"
        event = prepared(url)
        smtp.inbox.answer = lambda: dies(mongo)
        with Function(tmp_path, "email", env=env) as email:
            outcome: list[object] = []
            delivery = Thread(target=lambda: outcome.append(attempt(email.url, event)))
            delivery.start()
            wait_for(lambda: "outcome=not-marked" in email.log or lines(Path(env["SENT_EMAILS"])))
            email.kill()
            delivery.join()
            assert outcome == ["no answer"]

            smtp.inbox.answer = lambda: ACCEPTED
            mongo.start()
            email.start()
            assert record(url, event)["state"] == "sending"
            refused(send(email.url, event), 409)  # for all that anyone can know, it is being sent
            expire(url, event)
            assert send(email.url, event).json() == SENT
            assert send(email.url, event).json() == SENT
            marked = record(url, event)
            assert (marked["state"], marked["taken"]) == ("sent", 2)
        assert [message["Message-ID"] for message in smtp.inbox.messages] == [f"<{event['id']}@milepost>"] * 2


def test_failed_mark_is_retried_until_it_succeeds(tmp_path: Path, smtp: SmtpServer, env: dict[str, str]) -> None:
    with Mongo(tmp_path) as mongo:
        env["MONGO_URL"] = url = f"{mongo.url}/x"
        event = prepared(url)
        smtp.inbox.answer = lambda: dies(mongo)
        with Function(tmp_path, "email", env=env) as email:
            outcome: list[object] = []
            delivery = Thread(target=lambda: outcome.append(attempt(email.url, event)))
            delivery.start()
            wait_for(lambda: "outcome=not-marked" in email.log)
            mongo.start()
            delivery.join()
            assert outcome == [200]
            assert record(url, event)["state"] == "sent"
            assert len(smtp.inbox.messages) == 1


def test_mail_whose_mark_keeps_failing_gets_503_and_is_not_sent_again(
    tmp_path: Path, smtp: SmtpServer, env: dict[str, str]
) -> None:
    with Mongo(tmp_path) as mongo:
        env |= {"MONGO_URL": f"{mongo.url}/x", "REQUEST_TIMEOUT": "6"}
        event = prepared(env["MONGO_URL"])
        smtp.inbox.answer = lambda: dies(mongo)
        with Function(tmp_path, "email", env=env) as email:
            assert "was sent" in refused(send(email.url, event), 503)["detail"]
            smtp.inbox.answer = lambda: ACCEPTED
            mongo.start()
            wait_for(lambda: record(env["MONGO_URL"], event)["state"] == "sent")  # whoever gets the redelivery
            assert send(email.url, event).json() == SENT
        assert len(smtp.inbox.messages) == 1


def dies(mongo: Mongo) -> str:
    """MongoDB goes away at the very moment at which the SMTP server takes the message."""
    mongo.kill()
    return ACCEPTED


def attempt(url: str, event: dict[str, Any]) -> int | str:
    try:
        return send(url, event).status_code
    except httpx.TransportError:
        return "no answer"
