"""The stage `email` over HTTP, its mails as lines. test_email_smtp.py has those that go out by SMTP."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import httpx
import pytest
from pymongo import MongoClient
from pymongo.database import Database

from tests.contract.contract import TRACEPARENT, StageContract, answered, at_once, lines, mongo_away, refused, send
from tests.servers import ANSWER_WITHIN, Function, Mongo, wait_for

ADA = "ada@example.org"
MILES = 2216.0742916592476
SENT = {
    "email": ADA,
    "distance_from_velocity": MILES,
    "message": "You are 2216.0742916592476 miles from Velocity.",
}
LINE = "Email sent to: ada@example.org; Message: You are 2216.0742916592476 miles from Velocity."


class TestEmail(StageContract):
    stage = "email"
    consumes = "user:email"
    emits = "email:sent"
    data: ClassVar = ADA
    invalid: ClassVar = [
        ({"$gt": ""}, "data"),
        ({"$ne": None}, "data"),
        ({"email": ADA}, "data"),
        ([ADA], "data"),
        (7, "data"),
        (True, "data"),
        ("", "data"),
        ("ada", "data"),
        ("ada@example.org\r\nBcc: eve@example.org", "data"),
        ("ada@example.org\n", "data"),
        ("ada@example.org, eve@example.org", "data"),
        ("Ada <ada@example.org>", "data"),
        ("a" * 300 + "@example.org", "data"),
    ]

    @pytest.fixture(scope="class")
    @classmethod
    def env(cls, mongo_server: Mongo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
        return {
            "MONGO_URL": f"{mongo_server.url}/email-{uuid4().hex}",
            "SENT_EMAILS": str(tmp_path_factory.mktemp("mails") / "sent_emails"),
        }

    @pytest.fixture
    def db(self, env: dict[str, str]) -> Iterator[Database[dict[str, Any]]]:
        with MongoClient[dict[str, Any]](env["MONGO_URL"], tz_aware=True) as client:
            yield client.get_default_database()

    @pytest.fixture
    def sent_emails(self, env: dict[str, str]) -> Path:
        path = Path(env["SENT_EMAILS"])
        path.unlink(missing_ok=True)
        return path

    def prepare(self, event: dict[str, Any], env: dict[str, str]) -> None:
        with MongoClient[dict[str, Any]](env["MONGO_URL"]) as client:
            keep(client.get_default_database(), event)

    def test_mail_is_one_line_and_one_record(
        self, url: str, event: dict[str, Any], db: Database[dict[str, Any]], sent_emails: Path
    ) -> None:
        assert send(url, event).json() == SENT
        assert sent_emails.read_text() == LINE + "\n"
        record = db["mails"].find_one({"_id": event["id"]})
        assert record is not None
        assert abs((datetime.now(UTC) - record.pop("time")).total_seconds()) < 60
        assert timedelta(seconds=40) < record.pop("until") - datetime.now(UTC) < timedelta(seconds=101)
        assert record.pop("holder")
        assert record == {"_id": event["id"], "state": "sent", "taken": 1, **SENT}

    def test_redelivery_sends_nothing_and_gets_the_same_answer(
        self, url: str, event: dict[str, Any], db: Database[dict[str, Any]], sent_emails: Path
    ) -> None:
        first = send(url, event)
        db["users"].update_one({"_id": event["id"]}, {"$set": {"distance_from_velocity": 1.0}})
        second = send(url, event)
        db["users"].delete_one({"_id": event["id"]})
        third = send(url, event)
        assert first.content == second.content == third.content
        assert lines(sent_emails) == [LINE]
        assert db["mails"].count_documents({"_id": event["id"], "taken": 1}) == 1

    async def test_twenty_concurrent_deliveries_make_one_record_and_one_line(
        self, url: str, event: dict[str, Any], db: Database[dict[str, Any]], sent_emails: Path
    ) -> None:
        responses = await at_once(url, [event] * 20)
        assert {response.status_code for response in responses} <= {200, 409}
        assert all(
            refused(response, 409)["title"] == "Deferred" and response.headers["retry-after"] == "1"
            for response in responses
            if response.status_code == 409
        )
        assert len({response.content for response in responses if response.status_code == 200}) == 1
        assert send(url, event).json() == SENT
        assert lines(sent_emails) == [LINE]
        assert db["mails"].count_documents({"_id": event["id"], "taken": 1}) == 1

    async def test_duplicate_of_a_sent_mail_never_gets_409(self, url: str, event: dict[str, Any]) -> None:
        assert send(url, event).status_code == 200
        assert Counter(response.status_code for response in await at_once(url, [event] * 20)) == {200: 20}

    def test_two_submissions_for_one_address_each_get_their_own_distance(
        self, url: str, db: Database[dict[str, Any]], sent_emails: Path
    ) -> None:
        first, second = self.make(), self.make()
        keep(db, first, miles=1.5)
        keep(db, second, miles=2.5)
        assert send(url, second).json()["distance_from_velocity"] == 2.5
        assert send(url, first).json()["distance_from_velocity"] == 1.5
        assert [line.rpartition("; ")[2] for line in lines(sent_emails)] == [
            "Message: You are 2.5 miles from Velocity.",
            "Message: You are 1.5 miles from Velocity.",
        ]

    def test_a_bare_address_gets_the_newest_of_its_distances(self, url: str, db: Database[dict[str, Any]]) -> None:
        address = f"{uuid4().hex}@example.org"
        for _id, created, miles in (("c", 1, 1.0), ("a", 2, 2.0), ("b", 2, 3.0), ("d", 1, 4.0)):
            user = self.make(id=f"{_id}-{address}", data=address, time=f"2026-01-0{created}T00:00:00Z")
            keep(db, user, miles=miles)
        assert send(url, self.make(data=address)).json()["distance_from_velocity"] == 3.0

    def test_address_without_a_distance_gets_422(self, url: str, sent_emails: Path) -> None:
        event = self.make(data="nobody@example.org")
        assert "nobody@example.org" in refused(send(url, event), 422)["detail"]
        assert lines(sent_emails) == []

    def test_another_address_under_the_same_id_gets_422(
        self, url: str, event: dict[str, Any], db: Database[dict[str, Any]], sent_emails: Path
    ) -> None:
        other = event | {"data": "eve@example.org"}
        keep(db, self.make(data="eve@example.org"))
        assert send(url, event).status_code == 200
        assert event["id"] in refused(send(url, other), 422)["detail"]
        db["mails"].update_one({"_id": event["id"]}, {"$set": {"state": "sending", "until": datetime.now(UTC)}})
        refused(send(url, other), 422)
        assert db["mails"].count_documents({"_id": event["id"], "email": ADA, "taken": 1}) == 1
        assert lines(sent_emails) == [LINE]

    async def test_one_of_two_concurrent_addresses_under_one_id_is_mailed(
        self, url: str, event: dict[str, Any], db: Database[dict[str, Any]], sent_emails: Path
    ) -> None:
        keep(db, self.make(data="eve@example.org"))
        responses = await at_once(url, [event, event | {"data": "eve@example.org"}] * 10)
        assert {response.status_code for response in responses} <= {200, 409, 422}
        assert len(lines(sent_emails)) == 1

    @pytest.mark.parametrize("address", ["$email@example.org", "o'hara+x@example.org", "{x}@example.org"])
    def test_addresses_are_never_interpreted(
        self, url: str, db: Database[dict[str, Any]], sent_emails: Path, address: str
    ) -> None:
        event = self.make(data=address)
        keep(db, event)
        assert send(url, event).json()["email"] == address
        assert lines(sent_emails)[-1].startswith(f"Email sent to: {address}; ")

    def test_mail_taken_by_another_process_gets_409_until_it_may_be_taken(
        self, url: str, event: dict[str, Any], db: Database[dict[str, Any]], sent_emails: Path
    ) -> None:
        take_elsewhere(db, event, until=datetime.now(UTC) + timedelta(seconds=100))
        response = send(url, event)
        refused(response, 409)
        assert response.headers["retry-after"] == "5"
        assert lines(sent_emails) == []

        def is_told_its_end() -> bool:
            """Whether the answer came while another process had the mail. On a busy machine it may come too late."""
            db["mails"].delete_one({"_id": event["id"]})
            sent_emails.unlink(missing_ok=True)
            take_elsewhere(db, event, until=datetime.now(UTC) + timedelta(seconds=4))
            response = send(url, event)
            return response.status_code == 409 and response.headers["retry-after"] in {"1", "2", "3", "4"}

        wait_for(is_told_its_end)
        wait_for(lambda: send(url, event).status_code == 200)
        assert lines(sent_emails) == [LINE]
        assert db["mails"].count_documents({"_id": event["id"], "state": "sent", "taken": 2}) == 1

    def test_email_accepts_the_answer_of_store(
        self, url: str, env: dict[str, str], sent_emails: Path, tmp_path: Path
    ) -> None:
        data = {"email": ADA, "distance_from_velocity": MILES}
        event = self.make(type="calculated_distance", data=data, traceparent=TRACEPARENT)
        with Function(tmp_path, "store", env=env) as store:
            stored = send(store.url, event)
        mailed = answered(httpx.post(url, headers=dict(stored.headers), content=stored.content, timeout=ANSWER_WITHIN))
        assert mailed["id"] == event["id"]
        assert mailed["traceparent"] == TRACEPARENT
        assert lines(sent_emails) == [LINE]

    def test_mail_taken_again_has_the_same_text(
        self, url: str, event: dict[str, Any], db: Database[dict[str, Any]]
    ) -> None:
        take_elsewhere(db, event, until=datetime.now(UTC))
        db["users"].update_one({"_id": event["id"]}, {"$set": {"distance_from_velocity": 1.0}})
        assert send(url, event).json() == SENT

    def test_mail_taken_again_needs_no_distance(
        self, url: str, event: dict[str, Any], db: Database[dict[str, Any]]
    ) -> None:
        address = f"{uuid4().hex}@example.org"
        take_elsewhere(db, event, until=datetime.now(UTC))
        db["mails"].update_one({"_id": event["id"]}, {"$set": {"email": address}})
        assert send(url, event | {"data": address}).json() == {**SENT, "email": address}


def keep(db: Database[dict[str, Any]], event: dict[str, Any], *, miles: float = MILES) -> None:
    """Insert the user that the stage `store` would insert."""
    created = datetime.fromisoformat(event["time"]) if "time" in event else datetime.now(UTC)
    user = {"_id": event["id"], "email": event["data"], "distance_from_velocity": miles, "created": created}
    db["users"].replace_one({"_id": event["id"]}, user, upsert=True)


def take_elsewhere(db: Database[dict[str, Any]], event: dict[str, Any], *, until: datetime) -> None:
    """Insert the record as another process left it that took the mail."""
    record = {"_id": event["id"], "state": "sending", "until": until, "holder": "another", "taken": 1, **SENT}
    db["mails"].insert_one(record)


def prepared(mongo_url: str) -> dict[str, Any]:
    event = TestEmail().make()
    TestEmail().prepare(event, {"MONGO_URL": mongo_url})
    return event


def test_email_without_mongodb_gets_503(tmp_path: Path) -> None:
    with Function(tmp_path, "email", env={"MONGO_URL": mongo_away()}) as email:
        response = send(email.url, TestEmail().make())
        refused(response, 503)
        assert int(response.headers["retry-after"]) >= 1


def test_line_that_cannot_be_written_gets_503_and_frees_the_record(tmp_path: Path, mongo_url: str) -> None:
    event = prepared(mongo_url)
    with Function(
        tmp_path, "email", env={"MONGO_URL": mongo_url, "SENT_EMAILS": str(tmp_path / "no" / "sent")}
    ) as email:
        assert refused(send(email.url, event), 503)["detail"] == "SENT_EMAILS: No such file or directory"
    # Another process, so the record itself must be free; and without a file the line goes to stdout.
    with Function(tmp_path, "email", env={"MONGO_URL": mongo_url}) as email:
        assert send(email.url, event).status_code == 200
        assert LINE in email.log.splitlines()
