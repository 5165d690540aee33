from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import httpx
import pytest
from pymongo import MongoClient
from pymongo.collection import Collection

from tests.contract.contract import StageContract, answered, at_once, refused, send
from tests.servers import ANSWER_WITHIN, Function, Mongo, wait_for

ADA = {"email": "ada@example.org", "distance_from_velocity": 2216.0742916592476}


class TestStore(StageContract):
    stage = "store"
    consumes = "calculated_distance"
    emits = "user:email"
    data: ClassVar = ADA
    invalid: ClassVar = [
        ({**ADA, "email": {"$gt": ""}}, "email"),
        ({**ADA, "email": {"$ne": None}}, "email"),
        ({**ADA, "email": ["ada@example.org"]}, "email"),
        ({**ADA, "email": "ada"}, "email"),
        ({**ADA, "distance_from_velocity": {"$inc": 1}}, "distance_from_velocity"),
        ({**ADA, "distance_from_velocity": -1}, "distance_from_velocity"),
        ({**ADA, "distance_from_velocity": True}, "distance_from_velocity"),
        ({**ADA, "distance_from_velocity": "far"}, "distance_from_velocity"),
        ({"email": "ada@example.org"}, "distance_from_velocity"),
        ({"$where": "1"}, "email"),
        ("ada@example.org", "data"),
    ]

    @pytest.fixture(scope="class")
    @classmethod
    def env(cls, mongo_server: Mongo) -> dict[str, str]:
        return {"MONGO_URL": f"{mongo_server.url}/store-{uuid4().hex}"}

    @pytest.fixture
    def users(self, env: dict[str, str]) -> Iterator[Collection[dict[str, Any]]]:
        with MongoClient[dict[str, Any]](env["MONGO_URL"], tz_aware=True) as client:
            yield client.get_default_database()["users"]

    def test_distance_is_kept_under_the_events_id(self, url: str, users: Collection[dict[str, Any]]) -> None:
        event = self.make(time="2026-05-04T03:02:01.123456+02:00")
        reply = answered(send(url, event))
        assert reply.get_data() == b'"ada@example.org"' or reply.get_data() == "ada@example.org"
        assert users.find_one({"_id": event["id"]}) == {
            "_id": event["id"],
            **ADA,
            "created": datetime(2026, 5, 4, 1, 2, 1, 123000, tzinfo=UTC),
        }

    def test_leap_second_is_kept_as_the_second_after_it(self, url: str, users: Collection[dict[str, Any]]) -> None:
        event = self.make(time="2016-12-31T23:59:60Z")
        assert send(url, event).status_code == 200
        kept = users.find_one({"_id": event["id"]})
        assert kept
        assert kept["created"] == datetime(2017, 1, 1, tzinfo=UTC)

    def test_event_without_a_time_is_created_now(self, url: str, users: Collection[dict[str, Any]]) -> None:
        event = self.make(time=None)
        assert send(url, event).status_code == 200
        kept = users.find_one({"_id": event["id"]})
        assert kept is not None
        assert abs((datetime.now(UTC) - kept["created"]).total_seconds()) < 60

    def test_fields_that_email_looks_for_are_indexed(self, url: str, users: Collection[dict[str, Any]]) -> None:
        assert send(url, self.make()).status_code == 200
        assert [("email", 1), ("created", 1)] in [index["key"] for index in users.index_information().values()]

    @pytest.mark.parametrize("change", [{"email": "eve@example.org"}, {"distance_from_velocity": 2216.07429165925}])
    def test_same_id_with_other_contents_gets_422(
        self, url: str, users: Collection[dict[str, Any]], change: dict[str, Any]
    ) -> None:
        event = self.make()
        assert send(url, event).status_code == 200
        assert event["id"] in refused(send(url, event | {"data": ADA | change}), 422)["detail"]
        kept = users.find_one({"_id": event["id"]})
        assert kept is not None
        assert kept["email"] == ADA["email"]
        assert kept["distance_from_velocity"] == ADA["distance_from_velocity"]

    def test_same_id_with_another_time_succeeds(self, url: str) -> None:
        event = self.make()
        assert send(url, event).status_code == 200
        assert send(url, event | {"time": "2027-01-01T00:00:00Z"}).status_code == 200

    async def test_twenty_concurrent_deliveries_make_one_record(
        self, url: str, users: Collection[dict[str, Any]]
    ) -> None:
        event = self.make()
        responses = await at_once(url, [event] * 20)
        assert Counter(response.status_code for response in responses) == {200: 20}
        assert len({response.content for response in responses}) == 1
        assert users.count_documents({"_id": event["id"]}) == 1

    async def test_one_of_two_concurrent_contents_is_kept(self, url: str, users: Collection[dict[str, Any]]) -> None:
        one = self.make()
        other = one | {"data": ADA | {"email": "eve@example.org"}}
        responses = await at_once(url, [one, other] * 10)
        assert Counter(response.status_code for response in responses) == {200: 10, 422: 10}
        assert users.count_documents({"_id": one["id"]}) == 1


def event() -> dict[str, Any]:
    return TestStore().make()


def test_dead_or_frozen_mongodb_gets_503_and_nothing_is_lost(tmp_path: Path) -> None:
    # In this time, but not in the driver's own of 30 s and more, an operation ends by itself and says why.
    env = {"REQUEST_TIMEOUT": "30"}
    with Mongo(tmp_path) as mongo, Function(tmp_path, "store", env=env | {"MONGO_URL": mongo.url}) as store:
        first, second, third = event(), event(), event()
        assert send(store.url, first).status_code == 200

        mongo.kill()
        mongo_unavailable(store.url, second)
        mongo.start()
        wait_for(lambda: send(store.url, second).status_code == 200)

        mongo.freeze()
        mongo_unavailable(store.url, third)
        mongo.thaw()
        wait_for(lambda: send(store.url, third).status_code == 200)

        with MongoClient[dict[str, Any]](mongo.url) as client:  # its URL names no database
            kept = {user["_id"] for user in client["milepost"]["users"].find()}
        assert kept == {first["id"], second["id"], third["id"]}


def test_store_that_starts_before_mongodb_is_ready_when_mongodb_is(tmp_path: Path) -> None:
    mongo = Mongo(tmp_path)
    with Function(tmp_path, "store", env={"MONGO_URL": mongo.url}) as store:
        wake_up = httpx.get(store.url, timeout=ANSWER_WITHIN)
        assert refused(wake_up, 503)["detail"].startswith("MongoDB: ")
        refused(send(store.url, event()), 503)
        with mongo:
            wait_for(lambda: httpx.get(store.url, timeout=ANSWER_WITHIN).status_code == 200)
            with MongoClient[dict[str, Any]](mongo.url) as client:
                indexes = client["milepost"]["users"].index_information()
            assert [("email", 1), ("created", 1)] in [index["key"] for index in indexes.values()]
            assert send(store.url, event()).status_code == 200


def mongo_unavailable(url: str, event: dict[str, Any]) -> None:
    response = send(url, event)
    assert int(response.headers["retry-after"]) >= 1
    assert refused(response, 503)["detail"].startswith("MongoDB: ")


def test_wrong_url_is_refused_at_start_without_its_password(tmp_path: Path) -> None:
    function = Function(tmp_path, "store", env={"MONGO_URL": "mongo://ada:secret@host"}).launch()
    wait_for(lambda: not function.alive)
    assert "MONGO_URL: must look like mongodb://" in function.log
    assert "secret" not in function.log
