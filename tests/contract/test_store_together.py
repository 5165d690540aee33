"""Events that reach the stage `store` together share a round trip to MongoDB, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from functions.mongo import MOST_SINGLE_OPERATIONS, Inserts, open_database, single_operation
from functions.payloads import CalculatedDistance, Recipient
from functions.store import main
from functions.store.main import Users
from milepost import Event, Reject, Unavailable
from milepost.function.stage import arrival
from tests.contract.together import Commands, each, proxied, watched
from tests.servers import WITHIN, Mongo, eventually

ADA = "ada@example.org"
INSERT, UPSERT, FIND = ("insert", "users"), ("update", "users"), ("find", "users")
Store = Callable[..., Awaitable[Recipient]]


def storing(users: Users, patch: pytest.MonkeyPatch) -> Store:
    patch.setattr(main.state, "users", users, raising=False)

    async def store(event_id: str, miles: float = 1.5) -> Recipient:
        event = Event(id=event_id, source="/tests", type="calculated_distance")
        return await main.store(CalculatedDistance(email=ADA, distance_from_velocity=miles), event)

    return store


@pytest.fixture
async def open_users(mongo_url: str) -> AsyncIterator[tuple[Users, Commands]]:
    async with watched(mongo_url, within=WITHIN) as (database, commands):
        yield Users(database), commands


@pytest.fixture
def store(open_users: tuple[Users, Commands], monkeypatch: pytest.MonkeyPatch) -> Store:
    return storing(open_users[0], monkeypatch)


@pytest.fixture
def commands(open_users: tuple[Users, Commands]) -> Commands:
    return open_users[1]


async def kept(mongo: AsyncDatabase[dict[str, Any]]) -> dict[str, float]:
    return {user["_id"]: user["distance_from_velocity"] async for user in mongo["users"].find()}


async def test_warm_up_sends_a_write_and_changes_nothing(
    open_users: tuple[Users, Commands], mongo: AsyncDatabase[dict[str, Any]]
) -> None:
    users, commands = open_users
    await mongo["users"].insert_one({"_id": "1", "created": 1})
    await users.warm_up()
    assert commands.counts == {UPSERT: 1}
    assert await mongo["users"].find().to_list() == [{"_id": "1", "created": 1}]


async def test_concurrent_events_take_one_round_trip(
    store: Store, commands: Commands, mongo: AsyncDatabase[dict[str, Any]]
) -> None:
    answers = await each(store(f"{number}", float(number)) for number in range(100))
    assert [answer.root for answer in answers] == [ADA] * 100
    assert commands.counts == {INSERT: 1}
    assert await kept(mongo) == {f"{number}": float(number) for number in range(100)}


async def test_each_concurrent_event_gets_its_own_answer(
    store: Store, commands: Commands, mongo: AsyncDatabase[dict[str, Any]]
) -> None:
    await each([store("same"), store("other")])
    commands.counts.clear()
    answers = await each(
        [
            store("new-1"),
            store("same"),
            store("other", 7.0),
            store("twin"),
            store("rival", 2.0),
            store("twin"),
            store("rival", 3.0),
            store("new-2"),
        ]
    )
    assert [isinstance(answer, Recipient) or type(answer) for answer in answers] == [
        True,
        True,
        Reject,
        True,
        True,
        True,
        Reject,
        True,
    ]
    assert "other" in str(answers[2])
    assert commands.counts == {INSERT: 1, UPSERT: 4, FIND: 4}
    assert await kept(mongo) == {"same": 1.5, "other": 1.5, "new-1": 1.5, "new-2": 1.5, "twin": 1.5, "rival": 2.0}


async def test_backlog_of_duplicates_keeps_the_limit_on_single_operations(
    store: Store, commands: Commands, mongo: AsyncDatabase[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, most = 0, 0

    async def upsert(users: Users, user: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await real(users, user)
        finally:
            under_way -= 1

    real = Users._upsert
    monkeypatch.setattr(Users, "_upsert", upsert)
    for _ in range(2):
        assert all(isinstance(answer, Recipient) for answer in await each(store(f"{number}") for number in range(150)))
    assert commands.counts == {INSERT: 2, UPSERT: 150, FIND: 150}
    assert most == MOST_SINGLE_OPERATIONS
    assert len(await kept(mongo)) == 150


async def test_event_whose_caller_is_cancelled_is_kept_and_harms_no_other(
    store: Store, mongo: AsyncDatabase[dict[str, Any]]
) -> None:
    gone, stays = asyncio.create_task(store("gone")), asyncio.create_task(store("stays"))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == Recipient(ADA)
    assert gone.cancelled()
    assert isinstance(await store("gone"), Recipient)
    assert sorted(await kept(mongo)) == ["gone", "stays"]


async def test_insert_without_an_answer_is_unavailable_and_then_succeeds(
    mongo_url: str, mongo: AsyncDatabase[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxied(mongo_url) as (proxy, url), watched(url) as (database, _):
        store = storing(Users(database), monkeypatch)
        await store("first")
        proxy.lose(b"insert", goes_down=True)
        answers = await each(store(f"{number}") for number in range(20))
        assert {type(answer) for answer in answers} == {Unavailable}
        assert proxy.lost
        assert len(await kept(mongo)) == 21
        proxy.is_down = False
        answers = await each([*(store(f"{number}") for number in range(25)), store("0", 9.0)])
        assert [type(answer) for answer in answers] == [Recipient] * 25 + [Reject]
        assert len(await kept(mongo)) == 26


@pytest.mark.parametrize("command", [b"insert", b"$setOnInsert"])
async def test_waits_for_a_silent_mongodb_end_in_the_requests_time(
    mongo_url: str, monkeypatch: pytest.MonkeyPatch, command: bytes
) -> None:
    """The bridge would count a timeout against each event."""
    events = [f"{number}" for number in range(3 * MOST_SINGLE_OPERATIONS)]
    async with proxied(mongo_url) as (proxy, url), watched(url, within=WITHIN) as (database, _):
        store = storing(Users(database), monkeypatch)
        await each(map(store, events))
        monkeypatch.setattr(main, "REQUEST_TIMEOUT", 1.0)
        proxy.freeze_at(command)
        async with asyncio.timeout(WITHIN / 2):
            while not proxy.is_frozen:  # on a busy machine the time may be over before
                assert {type(answer) for answer in await each(map(store, events))} == {Unavailable}
        monkeypatch.setattr(main, "REQUEST_TIMEOUT", WITHIN)
        proxy.thaw()
        assert await each(map(store, events)) == [Recipient(ADA)] * len(events)


async def test_wait_for_one_of_the_single_operations_ends_in_the_requests_time() -> None:
    async with AsyncExitStack() as others, asyncio.timeout(WITHIN):
        for _ in range(MOST_SINGLE_OPERATIONS):
            await others.enter_async_context(single_operation(None))
        with pytest.raises(Unavailable, match="time was over"):
            await others.enter_async_context(single_operation(asyncio.get_running_loop().time() + 0.01))


async def test_time_of_a_request_begins_when_it_came(store: Store) -> None:
    """The stage may have waited for its start since then."""
    token = arrival.set(asyncio.get_running_loop().time() - main.REQUEST_TIMEOUT)
    try:
        with pytest.raises(Unavailable, match="time was over"):
            await store("1")
    finally:
        arrival.reset(token)
    assert await store("1") == Recipient(ADA)


async def test_index_that_could_not_be_made_is_made_later(mongo_url: str, mongo: AsyncDatabase[dict[str, Any]]) -> None:
    async with proxied(mongo_url) as (proxy, url), watched(url, within=WITHIN) as (database, _):
        users = Users(database)
        await users.warm_up()
        proxy.freeze()
        async with asyncio.timeout(WITHIN / 2):
            await users.index(by=asyncio.get_running_loop().time() + 0.1)
        proxy.thaw()
        await users.index(by=None)
        indexes = await (await mongo["users"].list_indexes()).to_list()
        assert [("email", 1), ("created", 1)] in [list(index["key"].items()) for index in indexes]


async def test_database_is_closed_though_mongodb_is_silent(mongo_url: str) -> None:
    """Within the bridge's or the container's time to stop; by itself the driver waits for 10 s and more."""
    async with proxied(mongo_url) as (proxy, url):
        async with open_database(url) as database:
            await database["users"].insert_one({"_id": "1"})
            proxy.freeze()
        assert proxy.is_frozen


async def test_events_are_unavailable_without_mongodb_and_kept_when_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Mongo(tmp_path) as mongo:
        async with watched(f"{mongo.url}/x") as (database, _):
            store = storing(Users(database), monkeypatch)
            await each(store(f"{number}") for number in range(10))
            await asyncio.to_thread(mongo.kill)
            answers = await each(store(f"{number}") for number in range(40))
            assert {type(answer) for answer in answers} == {Unavailable}
            await asyncio.to_thread(mongo.start)

            async def all_kept() -> bool:
                return {type(answer) for answer in await each(store(f"{number}") for number in range(40))} == {
                    Recipient
                }

            await eventually(all_kept)
            assert len([user async for user in database["users"].find()]) == 40


async def test_broken_document_fails_alone(mongo: AsyncDatabase[dict[str, Any]]) -> None:
    await mongo.create_collection("any", validator={"number": {"$exists": False}})
    inserts = Inserts(mongo["any"])
    await inserts.insert({"_id": "there"}, by=None)
    documents = [{"_id": "a"}, {"_id": "there"}, {"_id": "x", "number": 1}, {"_id": "b"}, {"_id": "b"}]
    first = await each(inserts.insert(document, by=None) for document in documents)
    assert [first[0], first[1], *first[3:]] == [True, False, True, False]
    assert isinstance(first[2], Unavailable)
    documents = [{"_id": "c"}, {"_id": "d", "number": 2**70}, {"_id": "e"}]
    second = await each(inserts.insert(document, by=None) for document in documents)
    assert [second[0], second[2]] == [True, True]
    assert isinstance(second[1], OverflowError)
    assert {found["_id"] async for found in mongo["any"].find()} == {"there", "a", "b", "c", "e"}
