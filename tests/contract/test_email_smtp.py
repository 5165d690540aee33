"""The stage `email` against a real SMTP server, and what becomes of a mail when something dies on the way."""

from collections.abc import Iterator
from datetime import UTC, datetime
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
from tests.servers import Function, Mongo, wait_for

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


def test_mails_as_plain_text_and_then_writes_the_line(
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


def test_an_id_and_an_address_of_any_characters_break_no_header(
    email: Function, smtp: SmtpServer, mongo_url: str
) -> None:
    event = prepared(mongo_url, "jörg.$x'@bücher.example") | {"id": '<a>@b ..ü, "c"\u2028d'}
    assert send(email.url, event, structured).status_code == 200
    [message], [envelope] = smtp.inbox.messages, smtp.inbox.envelopes
    assert message["Message-ID"] == "<%3Ca%3E%40b%20%2E%2E%C3%BC%2C%20%22c%22%E2%80%A8d@milepost>"
    assert envelope.rcpt_tos == ["jörg.$x'@xn--bcher-kva.example"]
    assert len(message.keys()) == len(set(message.keys()))


def test_a_recipient_refused_for_good_is_a_422_and_the_mail_is_free(
    email: Function, smtp: SmtpServer, mongo_url: str, env: dict[str, str]
) -> None:
    event = prepared(mongo_url)
    smtp.inbox.recipient = lambda _: "550 no such mailbox"
    assert "550 no such mailbox" in refused(send(email.url, event), 422)["detail"]
    assert lines(Path(env["SENT_EMAILS"])) == []
    smtp.inbox.recipient = lambda _: ACCEPTED
    assert send(email.url, event).status_code == 200
    assert record(mongo_url, event)["taken"] == 2


def test_a_message_refused_for_good_is_a_422(email: Function, smtp: SmtpServer, mongo_url: str) -> None:
    smtp.inbox.answer = lambda: "554 no such thing here"
    assert "554" in refused(send(email.url, prepared(mongo_url)), 422)["detail"]


@pytest.mark.parametrize("where", ["recipient", "answer"])
def test_what_the_server_cannot_take_now_is_a_503_and_the_mail_is_free(
    email: Function, smtp: SmtpServer, mongo_url: str, env: dict[str, str], where: str
) -> None:
    event = prepared(mongo_url)
    setattr(smtp.inbox, where, lambda *_: "451 later")
    response = send(email.url, event)
    assert "451 later" in refused(response, 503)["detail"]
    assert int(response.headers["retry-after"]) >= 1
    assert lines(Path(env["SENT_EMAILS"])) == []
    assert record(mongo_url, event)["until"] < datetime.now(UTC)
    setattr(smtp.inbox, where, lambda *_: ACCEPTED)
    assert send(email.url, event).json() == SENT
    assert lines(Path(env["SENT_EMAILS"])) == [LINE]


def test_a_server_that_hangs_up_after_its_250_has_the_mail(email: Function, smtp: SmtpServer, mongo_url: str) -> None:
    smtp.inbox.hangs_up_on_quit = True
    assert send(email.url, prepared(mongo_url)).json() == SENT
    assert len(smtp.inbox.messages) == 1


def test_killed_between_the_250_and_the_mark_it_is_sent_once_more(
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


def test_a_mark_that_fails_is_tried_again_until_it_succeeds(
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
            wait_for(lambda: "outcome=not-marked" in email.log)
            mongo.start()
            delivery.join()
            assert outcome == [200]
            assert record(url, event)["state"] == "sent"
            assert len(smtp.inbox.messages) == 1


def test_a_mark_that_fails_for_good_is_a_503_and_the_same_process_takes_the_mail_again(
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
            wait_for(lambda: send(email.url, event).status_code == 200)
        assert record(env["MONGO_URL"], event)["taken"] == 2
        assert len(smtp.inbox.messages) == 2


def dies(mongo: Mongo) -> str:
    """MongoDB goes away at the very moment at which the SMTP server takes the message."""
    mongo.kill()
    return ACCEPTED


def attempt(url: str, event: dict[str, Any]) -> int | str:
    try:
        return send(url, event).status_code
    except httpx.TransportError:
        return "no answer"
