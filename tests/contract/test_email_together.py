"""Events that reach the stage `email` together share round trips to MongoDB, and each is mailed once."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from functions.email import main, records
from functions.email.mail import Mail, SmtpServer, TimeLimits
from functions.email.mailer import Mailer
from functions.email.records import MailRecords
from functions.email.smtp import SmtpSender, parse_sender
from functions.mongo import MOST_SINGLE_OPERATIONS, Database, single_operation
from functions.payloads import EmailSent, Recipient
from milepost import Defer, Event, Reject, Unavailable
from milepost.function.stage import arrival
from tests.contract.contract import lines
from tests.contract.smtp import SmtpServer as RealServer
from tests.contract.together import Commands, each, proxied, watched
from tests.servers import HOST, WITHIN, Mongo, eventually

ADA, EVE = "ada@example.org", "eve@example.org"
TAKEN_FOR = timedelta(seconds=100)
USERS, INSERT, MARK = ("find", "users"), ("insert", "mails"), ("updateMany", "mails")
TAKE, LOOK = ("update", "mails"), ("find", "mails")

process: ContextVar[MailRecords] = ContextVar("process")
gate: ContextVar[asyncio.Event] = ContextVar("gate")


class Process:
    """The stage as in a process of its own. `await email(id)` is one delivery."""

    def __init__(self, database: Database) -> None:
        self.mails = MailRecords(database, TAKEN_FOR)

    async def email(self, event_id: str, address: str = ADA) -> EmailSent:
        process.set(self.mails)
        return await main.email(Recipient(address), Event(id=event_id, source="/tests", type="user:email"))


def soon(seconds: float = WITHIN) -> float:
    return asyncio.get_running_loop().time() + seconds


class Processes:
    """In place of the stage's state: the records of the process whose delivery this is."""

    @property
    def records(self) -> MailRecords:
        return process.get()


@pytest.fixture(autouse=True)
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(main, "state", Processes())
    monkeypatch.setattr(main, "MAILER", Mailer(sent_emails=tmp_path / "sent"))
    return tmp_path / "sent"


@pytest.fixture
async def opened(mongo_url: str) -> AsyncIterator[tuple[Database, Commands]]:
    async with watched(mongo_url, within=WITHIN) as opened:
        yield opened


def user(number: int, email: str = ADA) -> dict[str, Any]:
    """The user of event `number`, that many miles away."""
    return {"_id": f"{number}", "email": email, "distance_from_velocity": number, "created": datetime.now(UTC)}


def line(number: int, email: str = ADA) -> str:
    return f"Email sent to: {email}; Message: You are {number} miles from Velocity."


def record(number: int, **other: Any) -> dict[str, Any]:
    """The record of that user's mail, as another process left it."""
    text = f"You are {number} miles from Velocity."
    mail = {"_id": f"{number}", "email": ADA, "distance_from_velocity": number, "message": text}
    sending = {"state": "sending", "until": datetime.now(UTC) + TAKEN_FOR, "holder": "another", "taken": 1}
    return {**mail, **sending, **other}


async def taken(mongo: AsyncDatabase[dict[str, Any]]) -> dict[str, tuple[str, int]]:
    return {mail["_id"]: (mail["state"], mail["taken"]) async for mail in mongo["mails"].find()}


async def test_warm_up_sends_what_a_mail_needs_and_changes_nothing(
    opened: tuple[Database, Commands], mongo: AsyncDatabase[dict[str, Any]]
) -> None:
    database, commands = opened
    await mongo["users"].insert_one(user(1))
    await mongo["mails"].insert_one(record(1, until=None))
    await MailRecords(database, TAKEN_FOR).warm_up()
    assert commands.counts == {USERS: 1, TAKE: 1, MARK: 1}
    assert await mongo["mails"].find().to_list() == [record(1, until=None)]


async def test_concurrent_mails_take_three_round_trips(
    opened: tuple[Database, Commands], mongo: AsyncDatabase[dict[str, Any]], sent: Path
) -> None:
    database, commands = opened
    await mongo["users"].insert_many([user(number) for number in range(200)])
    email = Process(database).email
    answers = await each(email(f"{number}") for number in range(200))
    assert [answer.distance_from_velocity for answer in answers] == list(range(200))
    assert commands.counts == {USERS: 1, INSERT: 1, MARK: 1}
    assert sorted(lines(sent)) == sorted(map(line, range(200)))
    assert await taken(mongo) == {f"{number}": ("sent", 1) for number in range(200)}


async def test_each_concurrent_event_gets_its_own_answer(
    opened: tuple[Database, Commands], mongo: AsyncDatabase[dict[str, Any]], sent: Path
) -> None:
    database, commands = opened
    await mongo["users"].insert_many([*map(user, range(8)), user(8, EVE)])
    await mongo["mails"].insert_many(
        [
            record(2, state="sent"),
            record(3),
            record(4, until=datetime.now(UTC)),
            record(5, email=EVE),
            record(6, email=EVE, state="sent"),
        ]
    )
    email = Process(database).email
    elsewhere = [email("unknown", EVE), email("unknown", "nobody@example.org")]
    new, twin, mailed, taken_by_another, expired, others, others_sent, again, newest, nobody = await each(
        [*(email(one) for one in "01234561"), *elsewhere]
    )
    assert [answer.distance_from_velocity for answer in (new, twin, mailed, expired, newest)] == [0, 1, 2, 4, 8]
    assert newest.email == EVE
    assert isinstance(taken_by_another, Defer)
    assert taken_by_another.retry_after == 5
    assert isinstance(again, Defer) or again == twin, "as the record was when it was looked at"
    assert [type(answer) for answer in (others, others_sent, nobody)] == [Reject] * 3
    assert sorted(lines(sent)) == sorted([line(0), line(1), line(4), line(8, EVE)])
    assert await taken(mongo) == {
        "0": ("sent", 1),
        "1": ("sent", 1),
        "2": ("sent", 1),
        "3": ("sending", 1),
        "4": ("sent", 2),
        "5": ("sending", 1),
        "6": ("sent", 1),
        "unknown": ("sent", 1),
    }
    # Single operations: two lookups of users by their address, and five takings of records that existed.
    assert commands.counts[USERS] == 3
    assert commands.counts[INSERT] <= 3
    assert commands.counts[TAKE] == 5


async def test_existing_record_is_not_inserted(
    opened: tuple[Database, Commands], mongo: AsyncDatabase[dict[str, Any]], sent: Path
) -> None:
    database, commands = opened
    await mongo["mails"].insert_one(record(7, until=datetime.now(UTC)))  # and no user of the address
    assert (await Process(database).email("7")).distance_from_velocity == 7
    assert commands.counts == {USERS: 2, LOOK: 2, TAKE: 1, MARK: 1}
    assert lines(sent) == [line(7)]


async def test_wait_for_a_connection_is_short_and_leaves_no_trace(
    opened: tuple[Database, Commands], mongo: AsyncDatabase[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long one would take from the time for the server's reply, and the mail would be sent twice."""
    await mongo["users"].insert_many([user(1), user(2)])
    await mongo["mails"].insert_one(record(2, until=datetime.now(UTC)))
    before = await mongo["mails"].find().to_list()
    email = Process(opened[0]).email
    with RealServer() as relay:
        server, sender = SmtpServer("smtp", HOST, relay.port), parse_sender("Velocity <velocity@example.org>")
        smtp = SmtpSender(server, sender, timeout=WITHIN, connections=1)
        monkeypatch.setattr(main, "MAILER", replace(main.MAILER, smtp=smtp))
        monkeypatch.setattr(main, "REQUEST_TIMEOUT", 1.0)
        in_use = smtp.connection(TimeLimits.of_request(soon(0), WITHIN))
        async with asyncio.timeout(WITHIN), in_use:
            answers = await each([email("1"), email("2")])
        assert {type(answer) for answer in answers} == {Defer}
        assert await mongo["mails"].find().to_list() == before
        monkeypatch.setattr(main, "REQUEST_TIMEOUT", WITHIN)
        answers = await each([email("1"), email("2")])
        assert {type(answer) for answer in answers} == {EmailSent}
        assert len(relay.inbox.messages) == 2
    assert await taken(mongo) == {"1": ("sent", 1), "2": ("sent", 2)}


async def test_mail_that_may_not_be_sent_now_needs_no_connection(
    opened: tuple[Database, Commands], mongo: AsyncDatabase[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    await mongo["users"].insert_many(map(user, range(4)))
    await mongo["mails"].insert_many([record(1, state="sent"), record(2, holder=""), record(3)])
    email = Process(opened[0]).email
    with RealServer() as relay:
        server, sender = SmtpServer("smtp", HOST, relay.port), parse_sender("Velocity <velocity@example.org>")
        smtp = SmtpSender(server, sender, timeout=WITHIN, connections=1)
        monkeypatch.setattr(main, "MAILER", replace(main.MAILER, smtp=smtp))
        monkeypatch.setattr(main, "REQUEST_TIMEOUT", WITHIN * 100)
        in_use = smtp.connection(TimeLimits.of_request(soon(0), WITHIN))
        async with asyncio.timeout(WITHIN), in_use:
            sent, put_off, taken_by_another = await each([email("1"), email("2"), email("3")])
    assert isinstance(sent, EmailSent)
    assert isinstance(put_off, Defer)
    assert "did not answer" in str(put_off)
    assert isinstance(taken_by_another, Defer)
    assert "is being sent" in str(taken_by_another)
    assert relay.inbox.messages == []


async def test_record_that_was_taken_too_late_to_send_is_freed(
    opened: tuple[Database, Commands],
    mongo: AsyncDatabase[dict[str, Any]],
    sent: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await mongo["users"].insert_one(user(1))
    limits = TimeLimits.of_request(soon(0), WITHIN)
    with monkeypatch.context() as patch:
        patch.setattr(TimeLimits, "of_request", lambda *_: replace(limits, message=soon(0)))
        with pytest.raises(Unavailable, match="before the mail could be sent"):
            await Process(opened[0]).email("1")

    async def is_free() -> bool:
        return await mongo["mails"].count_documents({"_id": "1", "until": {"$lt": datetime.now(UTC)}}) == 1

    await eventually(is_free)
    assert (await Process(opened[0]).email("1")).distance_from_velocity == 1
    assert lines(sent) == [line(1)]


@pytest.mark.parametrize("command", [b"find", b"insert", b"$inc"])
async def test_waits_for_a_silent_mongodb_end_in_the_requests_time(
    mongo_url: str, mongo: AsyncDatabase[dict[str, Any]], sent: Path, monkeypatch: pytest.MonkeyPatch, command: bytes
) -> None:
    """The bridge would count a timeout against each event."""
    numbers = range(3 * MOST_SINGLE_OPERATIONS)
    await mongo["users"].insert_many(map(user, numbers))
    await mongo["mails"].insert_many([record(number, until=datetime.now(UTC)) for number in numbers])
    events = [f"{number}" for number in numbers]
    async with proxied(mongo_url) as (proxy, url), watched(url, within=WITHIN) as (database, _):
        email = Process(database).email
        monkeypatch.setattr(main, "REQUEST_TIMEOUT", 1.0)
        proxy.freeze_at(command)
        async with asyncio.timeout(WITHIN / 2):
            while not proxy.is_frozen:  # on a busy machine the time may be over before
                assert {type(answer) for answer in await each(map(email, events))} == {Unavailable}
        assert lines(sent) == []
        monkeypatch.setattr(main, "REQUEST_TIMEOUT", WITHIN)
        proxy.thaw()
        assert {type(answer) for answer in await each(map(email, events))} == {EmailSent}
        assert sorted(lines(sent)) == sorted(map(line, numbers))


async def test_limits_begin_when_the_request_came(
    opened: tuple[Database, Commands], mongo: AsyncDatabase[dict[str, Any]], sent: Path
) -> None:
    """The stage may have waited for its start since then."""
    await mongo["users"].insert_one(user(1))
    token = arrival.set(soon(-main.REQUEST_TIMEOUT))
    try:
        with pytest.raises(Unavailable, match="time was over"):
            await Process(opened[0]).email("1")
    finally:
        arrival.reset(token)
    assert lines(sent) == []


@pytest.mark.parametrize("seed", range(3))
async def test_mails_are_sent_once_however_they_are_delivered(
    opened: tuple[Database, Commands], mongo: AsyncDatabase[dict[str, Any]], sent: Path, seed: int
) -> None:
    database, _ = opened
    chance = random.Random(seed)
    processes = [Process(database) for _ in range(3)]
    await mongo["users"].insert_many(map(user, range(40)))

    async def deliver(number: int) -> EmailSent:
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)
        while True:
            try:
                return await chance.choice(processes).email(f"{number}")
            except Defer:
                await asyncio.sleep(0.01)

    deliveries = list(range(40)) * 8
    chance.shuffle(deliveries)
    async with asyncio.timeout(WITHIN):
        answers = await asyncio.gather(*map(deliver, deliveries))
    assert [answer.distance_from_velocity for answer in answers] == deliveries
    assert sorted(lines(sent)) == sorted(map(line, range(40)))
    assert await taken(mongo) == {f"{number}": ("sent", 1) for number in range(40)}


async def test_mail_whose_caller_is_cancelled_is_sent_by_the_next_delivery(
    opened: tuple[Database, Commands], mongo: AsyncDatabase[dict[str, Any]], sent: Path
) -> None:
    """The taking goes on without its caller, in this process's name, so the next delivery takes it again at once."""
    database, commands = opened
    await mongo["users"].insert_many(map(user, range(3)))
    email = Process(database).email
    goes, stays = asyncio.create_task(email("0")), asyncio.create_task(email("1"))
    async with asyncio.timeout(WITHIN):
        while not commands.counts[INSERT]:
            await asyncio.sleep(0)
    goes.cancel()
    again = asyncio.create_task(email("0"))
    await asyncio.wait([goes, stays, again])
    assert goes.cancelled()
    assert stays.result().distance_from_velocity == 1
    assert again.result().distance_from_velocity == 0
    assert sorted(lines(sent)) == [line(0), line(1)]
    assert await taken(mongo) == {"0": ("sent", 2), "1": ("sent", 1)}


async def test_takings_without_an_answer_are_unavailable_and_then_mailed_once(
    mongo_url: str, mongo: AsyncDatabase[dict[str, Any]], sent: Path
) -> None:
    await mongo["users"].insert_many(map(user, range(25)))
    await mongo["mails"].insert_many([record(number) for number in range(5)])  # taken by another process
    async with proxied(mongo_url) as (proxy, url), watched(url) as (database, _):
        email = Process(database).email
        proxy.lose(b"insert", goes_down=True)
        answers = await each(email(f"{number}") for number in range(20))
        assert {type(answer) for answer in answers} == {Unavailable}
        assert proxy.lost
        assert lines(sent) == []
        proxy.is_down = False
        answers = await each(email(f"{number}") for number in range(25))
        assert [type(answer) for answer in answers] == [Defer] * 5 + [EmailSent] * 20
        assert sorted(lines(sent)) == sorted(map(line, range(5, 25)))
        found = await taken(mongo)
        assert [found[f"{number}"] for number in range(25)] == (
            [("sending", 1)] * 5 + [("sent", 2)] * 15 + [("sent", 1)] * 5
        )


async def test_failed_mark_is_repeated_and_fails_no_other(
    mongo_url: str, mongo: AsyncDatabase[dict[str, Any]], sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mongo["users"].insert_many([user(1), user(2)])
    await mongo["mails"].insert_many([record(1), record(2)])
    async with proxied(mongo_url) as (proxy, url), watched(url) as (database, commands):
        process = Process(database)
        proxy.lose(b"update", times=1000)
        with pytest.raises(Unavailable, match="was sent"):
            await process.mails.mark_sent("1", by=0)
        monkeypatch.setattr(main, "REQUEST_TIMEOUT", 0.2)
        with pytest.raises(Unavailable):
            await process.email("1")
        assert commands.counts[TAKE] == 0, "the mark could succeed between the taking and the look whether it has"
        proxy.lose(b"update", times=0)
        monkeypatch.setattr(main, "REQUEST_TIMEOUT", WITHIN)
        await process.mails.mark_sent("2", by=soon())
        assert (await process.email("1")).distance_from_velocity == 1
        assert lines(sent) == []
    assert await taken(mongo) == {"1": ("sent", 1), "2": ("sent", 1)}


async def test_waits_for_mongodb_end_in_time_and_the_mark_goes_on(
    mongo_url: str, mongo: AsyncDatabase[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "OPERATION_TIMEOUT", WITHIN)
    await mongo["mails"].insert_one(record(1))
    async with proxied(mongo_url) as (proxy, url), watched(url, within=WITHIN) as (database, commands):
        mails = MailRecords(database, TAKEN_FOR)
        await mails.warm_up()
        proxy.freeze()
        async with asyncio.timeout(WITHIN / 2):
            await mails.free(record(1), by=soon(0.1))
            assert await mails.put_off(record(1), by=soon(0.1)) == 60
            with pytest.raises(Unavailable, match="was sent"):
                await mails.mark_sent("1", by=soon(0.1))
        proxy.thaw()
        await eventually(lambda: not mails.is_unmarked("1"))
        assert commands.counts[MARK] == 2, "one at the warm-up"
        assert (await taken(mongo))["1"] == ("sent", 1)


async def test_mail_is_put_off_though_mongodb_is_slow_to_write_it(
    mongo_url: str, mongo: AsyncDatabase[dict[str, Any]]
) -> None:
    """Else the process would take its own record again, and send a second copy, at the next delivery."""
    async with proxied(mongo_url) as (proxy, url), watched(url, within=WITHIN) as (database, _):
        mails = MailRecords(database, TAKEN_FOR)
        new = {key: record(1)[key] for key in ("_id", "email", "distance_from_velocity", "message")}
        taken = await mails.take(new, by=soon())
        proxy.freeze()
        assert await mails.put_off(taken, by=soon(0)) == 60
        async with asyncio.timeout(WITHIN / 2):
            with pytest.raises(Defer, match="did not answer"):
                await mails.take(new, by=soon())
        proxy.thaw()

        async def is_put_off() -> bool:
            return await mongo["mails"].count_documents({"_id": "1", "holder": "", "unanswered": 1, "taken": 1}) == 1

        await eventually(is_put_off)
        with pytest.raises(Defer, match="did not answer"):
            await mails.take(new, by=soon())


async def test_failed_write_of_a_mail_put_off_is_repeated(
    mongo_url: str, mongo: AsyncDatabase[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    await mongo["mails"].insert_one(record(1))
    async with proxied(mongo_url) as (proxy, url), watched(url, within=0.5) as (database, _):
        mails = MailRecords(database, TAKEN_FOR)
        proxy.is_down = True
        putting_off = asyncio.create_task(mails.put_off(record(1), by=soon()))
        await eventually(lambda: "not-freed" in caplog.text)
        proxy.is_down = False
        assert await putting_off == 60
        assert await mongo["mails"].count_documents({"_id": "1", "holder": "", "unanswered": 1}) == 1


async def test_record_is_freed_within_the_limit_on_single_operations(
    opened: tuple[Database, Commands], mongo: AsyncDatabase[dict[str, Any]]
) -> None:
    """Hundreds of records that are freed at once would use all connections, and no mark would get one."""
    database, commands = opened
    await mongo["mails"].insert_one(record(1))
    mails = MailRecords(database, TAKEN_FOR)
    async with AsyncExitStack() as others:
        for _ in range(MOST_SINGLE_OPERATIONS):
            await others.enter_async_context(single_operation(None))
        await mails.free(record(1), by=soon(0.2))
        assert not commands.counts

    async def is_free() -> bool:
        return await mongo["mails"].count_documents({"until": {"$lt": datetime.now(UTC)}}) == 1

    await eventually(is_free)


async def test_unexpected_error_of_a_mark_is_logged_and_the_mark_goes_on(
    opened: tuple[Database, Commands], caplog: pytest.LogCaptureFixture
) -> None:
    mails = MailRecords(opened[0], TAKEN_FOR)
    with pytest.raises(Unavailable, match="was sent"):
        await mails.mark_sent("\ud800", by=soon(0.05))  # BSON cannot encode it
    await eventually(lambda: "outcome=not-marked" in caplog.text)
    assert mails.is_unmarked("\ud800")
    await mails.close()


async def test_stopping_process_marks_what_could_not_be_marked(
    mongo_url: str, mongo: AsyncDatabase[dict[str, Any]]
) -> None:
    await mongo["mails"].insert_one(record(1))
    async with proxied(mongo_url) as (proxy, url), watched(url, within=1.0) as (database, _):
        mails = MailRecords(database, TAKEN_FOR)
        proxy.lose(b"update", times=2, goes_down=True)
        with pytest.raises(Unavailable, match="was sent"):
            await mails.mark_sent("1", by=0)
        await mongo["mails"].update_one({"_id": "1"}, {"$set": {"state": "sending"}})  # it was marked, unknown to us
        proxy.is_down = False
        await mails.close()
        assert (await taken(mongo))["1"] == ("sent", 1)


class Gated(Mailer):
    """Sends, and does not say so until `gate` is set."""

    async def send(self, mail: Mail, limits: TimeLimits) -> None:
        await super().send(mail, limits)
        await gate.get().wait()


async def test_sent_mails_are_marked_when_mongodb_returns(
    tmp_path: Path, sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.set(asyncio.Event())
    monkeypatch.setattr(main, "MAILER", Gated(sent_emails=sent))

    def numbers(of: Iterable[int]) -> list[str]:
        return [f"{number}" for number in of]

    with Mongo(tmp_path) as mongo:
        async with watched(f"{mongo.url}/x") as (database, commands):
            email = Process(database).email
            await database["users"].insert_many(map(user, range(40)))
            mailed = [asyncio.create_task(email(one)) for one in numbers(range(30))]
            await eventually(lambda: len(lines(sent)) == 30)
            await asyncio.to_thread(mongo.kill)
            gate.get().set()
            answers = await each(map(email, numbers(range(30, 40))))
            assert {type(answer) for answer in answers} == {Unavailable}
            await eventually(lambda: commands.counts[MARK] or not any(task.done() for task in mailed))
            assert not any(task.done() for task in mailed)
            again = await each(map(email, numbers(range(30))))
            assert {type(answer) for answer in again} == {Unavailable}

            await asyncio.to_thread(mongo.start)
            assert {type(answer) for answer in await each(mailed)} == {EmailSent}

            async def all_mailed() -> bool:
                return {type(answer) for answer in await each(map(email, numbers(range(40))))} == {EmailSent}

            await eventually(all_mailed)
            assert Counter(lines(sent)) == Counter(map(line, range(40)))
            assert await taken(database) == dict.fromkeys(numbers(range(40)), ("sent", 1))
