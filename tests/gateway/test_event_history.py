"""The history of one event on /ops: where it has been, each attempt, and where it is."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from milepost.events.event import Event
from milepost.journal import (
    Bury,
    Complete,
    Consumer,
    Delay,
    Entry,
    Failure,
    Journal,
    Maintenance,
    Park,
    Settlement,
    Split,
    Wiring,
    keys,
)
from milepost.settings import JournalSettings
from tests.gateway.operating import BEARER, serve
from tests.gateway.samples import LONDON

LINE = {
    "distance": Wiring(["raw_input"], ["calculated_distance"], "http://d"),
    "audit": Wiring(["raw_input"], [], "http://a"),
    "store": Wiring(["calculated_distance"], ["user:email"], "http://s"),
}
DOWN = Failure("HTTP 503: no mailbox of ada.lovelace@example.org <b>", 503, 0, 0)
WRONG = Failure("HTTP 422: lat: too large", 422, 0, 0)

Take = Callable[..., Awaitable[tuple[Consumer, Entry]]]


@pytest.fixture
async def take(journal: Journal) -> Take:
    """Take the one event that waits for a stage, as a bridge of this name."""
    await serve(journal, LINE)

    async def take(stage: str, *, bridge: str = "bridge-1", claim: float = 0) -> tuple[Consumer, Entry]:
        settings = JournalSettings()
        connection = journal.scripts.connection
        consumer = Consumer(
            stage,
            *LINE[stage].consumes,
            bridge,
            reader=connection,
            scripts=journal.scripts,
            deadline=settings.deadline,
            emits=bool(LINE[stage].emits),
        )
        await consumer.ensure()
        (entry,) = (await consumer.take_over(9, claim=claim)).entries if claim else await consumer.take(9)
        return consumer, entry

    return take


async def settle(taken: tuple[Consumer, Entry], settlement: Callable[[Entry], Settlement]) -> None:
    consumer, entry = taken
    assert await consumer.settle([settlement(entry)]) in (["done"], ["buried"])


async def publish(journal: Journal, event_id: str = "one") -> None:
    await journal.publish(Event(id=event_id, source="/tests", type="raw_input", data=LONDON))


def replied(event_id: str, channel: str) -> Callable[[Entry], Settlement]:
    reply = Event(id=event_id, source="/tests/stage", type=channel, data=None)
    return lambda entry: Complete(entry, event_id, reply)


async def wake(journal: Journal, redis: Redis, stage: str) -> None:
    """Let its parked events be due."""
    for member in await redis.zrange(keys.parked(stage), 0, -1):
        await redis.zadd(keys.parked(stage), {member: 1})
    settings = JournalSettings()
    maintenance = Maintenance(journal.scripts, dedup=settings.dedup, limit=settings.backlog_limit)
    assert (await maintenance.retry_due([stage], most=9))[0] == 1


async def history(operator: httpx.AsyncClient, event_id: str = "one") -> dict[str, Any]:
    answer = await operator.get("/ops/event.json", params={"id": event_id})
    answer.raise_for_status()
    return dict(answer.json())


def at(found: dict[str, Any], stage: str) -> dict[str, Any]:
    """The event at this stage."""
    (one,) = [
        one
        for one in [*(one for channel in found["channels"] for one in channel["stages"]), *found["elsewhere"]]
        if one["stage"] == stage
    ]
    return dict(one)


def did(stage: dict[str, Any]) -> list[tuple[str, str]]:
    return [(step["did"], step["answer"]) for step in stage["steps"]]


async def test_each_channel_attempt_answer_and_time_of_an_event_that_has_failed_before(
    operator: httpx.AsyncClient, journal: Journal, redis: Redis, take: Take
) -> None:
    await publish(journal)
    await settle(await take("audit"), lambda entry: Complete(entry, "one", None))
    await settle(await take("distance"), lambda entry: Park(entry, "one", DOWN, 60))
    parked = at(await history(operator), "distance")
    assert (parked["state"], parked["due"]) == ("parked", parked["steps"][0]["due"])
    await wake(journal, redis, "distance")
    assert at(await history(operator), "distance")["state"] == "to be retried"
    taken = await take("distance")
    assert at(await history(operator), "distance")["state"] == "in delivery"
    await settle(taken, replied("one", "calculated_distance"))
    found = await history(operator)
    assert (found["id"], found["state"], found["status_known"]) == ("one", "under way", True)
    assert [(channel["channel"], channel["emitted_by"]) for channel in found["channels"]] == [
        ("raw_input", None),
        ("calculated_distance", "distance"),
    ]
    masked = "HTTP 503: no mailbox of a***@example.org <b>"
    distance = at(found, "distance")
    assert distance["state"] == "delivered"
    assert did(distance) == [("failed", masked), ("delivered", "2xx, reply on calculated_distance")]
    assert [step["time"] for step in distance["steps"]] == sorted(step["time"] for step in distance["steps"])
    assert distance["steps"][1]["time"] == found["channels"][1]["time"]
    assert (at(found, "audit")["state"], did(at(found, "audit"))) == ("delivered", [])
    assert (at(found, "store")["state"], did(at(found, "store"))) == ("waiting", [])
    await settle(await take("store"), replied("one", "user:email"))
    assert (await history(operator))["state"] == "finished"


async def test_event_that_every_stage_has_finished_was_delivered_where_the_stage_has_read_it(
    operator: httpx.AsyncClient, browser: httpx.AsyncClient, journal: Journal, take: Take
) -> None:
    """Its entry is deleted by then. The journal of `distance` has read nothing, as if the stage had been away."""
    await publish(journal)
    taken = await take("audit")
    await settle(taken, lambda entry: Complete(entry, "one", None))
    assert at(await history(operator), "audit")["state"] == "delivered"
    await journal.redis.xdel(taken[1].stream, taken[1].id)
    found = await history(operator)
    states = [(at(found, name)["state"], did(at(found, name))) for name in ("audit", "distance")]
    assert states == [("delivered", []), ("not to be found", [])]
    page = await browser.get("/ops/event", params={"id": "one"})
    assert "The stage has taken it at its first delivery, without a reply." in page.text


async def test_delivery_without_a_reply_after_a_failure_has_its_time(
    operator: httpx.AsyncClient, journal: Journal, redis: Redis, take: Take
) -> None:
    await publish(journal)
    await settle(await take("audit"), lambda entry: Park(entry, "one", DOWN, 60))
    await wake(journal, redis, "audit")
    await settle(await take("audit"), lambda entry: Complete(entry, "one", None))
    audit = at(await history(operator), "audit")
    assert audit["state"] == "delivered"
    assert did(audit)[1:] == [("delivered", "2xx, no reply")]
    assert audit["steps"][0]["time"] <= audit["steps"][1]["time"]


async def test_event_under_way_shows_its_bridge_and_that_another_one_has_died(
    operator: httpx.AsyncClient, journal: Journal, redis: Redis, take: Take
) -> None:
    await publish(journal)
    _, entry = await take("distance")
    shown = at(await history(operator), "distance")
    assert (shown["state"], shown["bridge"], shown["given_out"]) == ("in delivery", "bridge-1", 1)
    await redis.xclaim(entry.stream, "distance", "bridge-1", 0, [entry.id], idle=60_000, justid=True)
    taken = await take("distance", bridge="bridge-2", claim=30)
    shown = at(await history(operator), "distance")
    assert (shown["state"], shown["bridge"], shown["given_out"]) == ("in delivery", "bridge-2", 2)
    await settle(taken, replied("one", "calculated_distance"))
    (step,) = at(await history(operator), "distance")["steps"]
    assert (step["did"], step["given_out"]) == ("delivered", 2)


async def test_dead_letter_is_shown_replayed_and_dropped(
    operator: httpx.AsyncClient, journal: Journal, take: Take
) -> None:
    await publish(journal)
    await settle(await take("distance"), lambda entry: Bury(entry, "one", WRONG))
    found = await history(operator)
    (letter,) = await journal.admin.dead_letters("distance")
    assert (found["state"], at(found, "distance")["entry"]) == ("dead letter", letter.entry)
    await journal.admin.replay("distance", [letter.entry])
    shown = at(await history(operator), "distance")
    assert (shown["state"], did(shown)) == ("to be retried", [("buried", WRONG.reason), ("replayed", "")])
    await settle(await take("distance"), lambda entry: Bury(entry, "one", WRONG))
    (letter,) = await journal.admin.dead_letters("distance")
    await journal.admin.drop("distance", [letter.entry])
    shown = at(await history(operator), "distance")
    assert (shown["state"], [step for step, _ in did(shown)]) == ("dropped", ["buried", "replayed", "buried"])


async def test_delayed_event_is_parked(operator: httpx.AsyncClient, journal: Journal, take: Take) -> None:
    await publish(journal)
    await settle(await take("distance"), lambda entry: Delay(entry, "one", 60))
    shown = at(await history(operator), "distance")
    assert (shown["state"], did(shown)) == ("parked", [("delayed", "")])


async def test_paused_and_unserved_stages_are_named(operator: httpx.AsyncClient, journal: Journal, take: Take) -> None:
    await publish(journal)
    await journal.admin.pause("distance")
    shown = at(await history(operator), "distance")
    assert (shown["state"], shown["paused"], shown["served"]) == ("waiting", True, True)
    page = await operator.get("/ops/event", params={"id": "one"})
    assert "The stage is paused." in page.text


@pytest.mark.parametrize("place", ["waiting", "parked", "to be retried", "dead letter"])
async def test_event_whose_status_has_ended_is_found_where_it_waits(
    operator: httpx.AsyncClient, journal: Journal, redis: Redis, take: Take, place: str
) -> None:
    await publish(journal, "other")
    await settle(await take("distance"), lambda entry: Complete(entry, "other", None))
    await publish(journal)
    if place != "waiting":
        failed = Bury if place == "dead letter" else None
        await settle(
            await take("distance"),
            lambda entry: failed(entry, "one", WRONG) if failed else Park(entry, "one", DOWN, 60),
        )
    if place == "to be retried":
        await wake(journal, redis, "distance")
    await redis.delete(keys.status("one"))
    found = await history(operator)
    assert (found["status_known"], found["channels"]) == (False, [])
    shown = [(one["stage"], one["channel"], one["state"]) for one in found["elsewhere"]]
    assert shown == [("distance", "raw_input", place)]
    page = await operator.get("/ops/event", params={"id": "one"})
    assert "Its status has ended" in page.text


async def test_entry_with_the_time_of_no_clock_hides_no_event(
    operator: httpx.AsyncClient, journal: Journal, redis: Redis, take: Take
) -> None:
    """An operator may choose the id of an entry. Redis gives later entries of this stream ids after it."""
    odd = f"{2**60}-1"
    await redis.xadd(keys.dead("distance"), {"event": "{}"}, id=odd)
    await publish(journal)
    await settle(await take("distance"), lambda entry: Bury(entry, "one", WRONG))
    await redis.delete(keys.status("one"))
    found = await history(operator)
    assert [(one["stage"], one["state"]) for one in found["elsewhere"]] == [("distance", "dead letter")]
    await publish(journal, "two")
    await redis.delete(keys.journal("raw_input"))
    await redis.xgroup_create(keys.journal("raw_input"), "distance", odd, mkstream=True)
    assert at(await history(operator, "two"), "distance")["state"] == "delivered"


async def test_stage_that_is_gone_still_shows_what_it_did(
    operator: httpx.AsyncClient, journal: Journal, redis: Redis, take: Take
) -> None:
    await publish(journal)
    await settle(await take("distance"), lambda entry: Bury(entry, "one", WRONG))
    await redis.hdel(keys.STAGES, "distance")
    found = await history(operator)
    assert [one["stage"] for one in found["elsewhere"]] == ["distance"]
    assert (found["state"], did(at(found, "distance"))) == ("dead letter", [("buried", WRONG.reason)])


async def test_broker_mode_shows_what_the_broker_took_and_gave_up(
    operator: httpx.AsyncClient, journal: Journal
) -> None:
    settings = JournalSettings()
    maintenance = Maintenance(journal.scripts, dedup=settings.dedup, limit=settings.backlog_limit)
    behind = {name: LINE[name] for name in ("distance", "store")}
    consumed = ["raw_input", "calculated_distance"]
    await maintenance.beat({"broker": Wiring(consumed, ["calculated_distance"], "http://b", behind)})
    await publish(journal)
    broker = Consumer(
        "broker",
        consumed[0],
        "bridge-1",
        reader=journal.scripts.connection,
        scripts=journal.scripts,
        deadline=settings.deadline,
        emits=False,
    )
    await broker.ensure()
    (entry,) = await broker.take(9)
    await settle((broker, entry), lambda entry: Complete(entry, "one", None))
    reply = Event(id="one", source="/tests/distance", type="calculated_distance", data=None)
    assert at(await history(operator), "distance")["state"] == "at the Broker"
    await maintenance.announce(reply)
    assert at(await history(operator), "store")["state"] == "at the Broker"
    await maintenance.bury_given_up("store", reply, WRONG)
    found = await history(operator)
    assert [channel["channel"] for channel in found["channels"]] == consumed
    assert at(found, "broker")["state"] == "delivered"
    assert did(at(found, "distance")) == [("delivered", "2xx, reply on calculated_distance")]
    assert (found["state"], did(at(found, "store"))) == ("dead letter", [("buried", WRONG.reason)])


async def test_parts_that_a_stage_has_made_are_linked(browser: httpx.AsyncClient, journal: Journal, take: Take) -> None:
    await publish(journal)
    answers = [Event(id=f"one/{number}", source="/d", type="calculated_distance", data=None) for number in range(2)]
    await settle(await take("distance"), lambda entry: Split(entry, "one", answers))
    shown = at(await history(browser), "distance")
    assert (shown["state"], shown["parts"]) == ("delivered", 2)
    assert did(shown) == [("delivered", "2xx, reply on calculated_distance in 2 parts")]
    page = await browser.get("/ops/event", params={"id": "one"})
    assert '<a href="/ops/event?id=one/1">1</a>' in page.text
    part = await history(browser, "one/1")
    assert [(channel["channel"], channel["emitted_by"]) for channel in part["channels"]] == [
        ("calculated_distance", "distance")
    ]


@pytest.mark.parametrize("event_id", ["unknown", "<script>alert(1)</script>", "a/b/../c?d#e&f", '"', "日本", "%00"])
async def test_unknown_id_is_said_to_be_unknown(browser: httpx.AsyncClient, event_id: str) -> None:
    answer = await browser.get("/ops/event", params={"id": event_id})
    assert answer.status_code == 404
    assert "No status has this id" in answer.text
    assert "<script>alert" not in answer.text
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    program = await browser.get("/ops/event.json", params={"id": event_id}, headers={"accept": "*/*"})
    assert (program.status_code, program.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("query", ["id=%00", "id=a%0Ab", "id=" + "x" * 10_000, "id=%EF%BF%BF"])
@pytest.mark.parametrize("path", ["/ops/event", "/ops/event.json"])
async def test_id_that_no_event_can_have_is_refused(operator: httpx.AsyncClient, path: str, query: str) -> None:
    answer = await operator.get(f"{path}?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("No event can have this id. id: ")


async def test_blanks_around_an_id_are_part_of_it_only_if_an_event_has_them(
    browser: httpx.AsyncClient, journal: Journal
) -> None:
    await serve(journal, LINE)
    for event_id in (" spaced ", "bare"):
        await publish(journal, event_id)
    for path in ("/ops/event", "/ops/event.json"):
        for asked, found in ((" spaced ", " spaced "), (" bare\u3000", "bare"), ("bare", "bare")):
            answer = await browser.get(path, params={"id": asked})
            assert answer.status_code == 200, asked
            assert f'"{found}"' in answer.text
        assert (await browser.get(path, params={"id": "spaced"})).status_code == 404


async def test_page_without_an_id_is_its_form(browser: httpx.AsyncClient) -> None:
    for query in ("", "?id=", "?id=%20"):
        page = await browser.get(f"/ops/event{query}")
        assert (page.status_code, "No status" in page.text) == (200, False)
        assert 'name="id"' in page.text
    assert (await browser.get("/ops/event.json")).status_code == 422


@pytest.mark.parametrize("event_id", ["<b>&amp;</b>", "a/b/../c?d#e&f", '"quoted" \\', "日本 𝄞", "x" * 256])
async def test_any_id_of_an_event_is_found(browser: httpx.AsyncClient, journal: Journal, event_id: str) -> None:
    await serve(journal, LINE)
    await publish(journal, event_id)
    page = await browser.get("/ops/event", params={"id": event_id})
    assert page.status_code == 200
    assert "waiting" in page.text
    assert "<b>" not in page.text
    assert (await history(browser, event_id))["id"] == event_id
    assert (await browser.head("/ops/event", params={"id": event_id})).status_code == 200


@pytest.mark.parametrize("path", ["/ops/event", "/ops/event.json"])
async def test_history_is_for_operators_alone_and_takes_no_other_method(stranger: httpx.AsyncClient, path: str) -> None:
    assert (await stranger.get(path, params={"id": "one"})).status_code == 401
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert (await stranger.request(method, path, params={"id": "one"}, headers=BEARER)).status_code == 405


async def test_history_is_read_without_a_write(
    operator: httpx.AsyncClient, journal: Journal, redis: Redis, take: Take
) -> None:
    await publish(journal)
    await settle(await take("audit"), lambda entry: Complete(entry, "one", None))
    await settle(await take("distance"), lambda entry: Park(entry, "one", DOWN, 60))

    async def everything() -> dict[bytes, bytes | None]:
        return {key: await redis.dump(key) for key in await redis.keys("*") if key != keys.BACKLOG.encode()}

    before = await everything()
    await history(operator)
    await operator.get("/ops/event", params={"id": "unknown"})
    assert await everything() == before
    answer = await operator.get("/submissions/one")
    assert "mailbox" not in answer.text, "visitors do not see what operators see"
