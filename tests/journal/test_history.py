"""The history of an event at a stage, which its status has for operators."""

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from milepost.errors import EventError
from milepost.events.event import Event
from milepost.journal import (
    Bury,
    Complete,
    Consumer,
    Delay,
    Entry,
    HistoryStep,
    Journal,
    Maintenance,
    Park,
    Settlement,
    Split,
    keys,
)
from tests.journal.conftest import Consumers, Table
from tests.journal.events import (
    CALCULATED,
    HOUR,
    RAW,
    abandoned,
    event_of,
    failure,
    made,
    overdue,
    reply_to,
    settled,
    submission,
    taken,
)

KEPT = 12
"""Steps that a history has at most."""


async def steps_of(journal: Journal, event: Event, stage: str = "distance") -> list[HistoryStep]:
    """Return the steps of an event at a stage; none if it has no history there."""
    _, histories = await journal.whole_status(event.id)
    return [*histories[stage].steps] if stage in histories else []


async def ready(journal: Journal, consumers: Consumers) -> tuple[Consumer, Entry, Event]:
    """Return a consumer, the entry that it has taken, and the event in it."""
    distance = consumers("distance")
    await made(distance)
    (entry,) = await taken(journal, distance)
    return distance, entry, event_of(entry)


async def retried(distance: Consumer, maintenance: Maintenance, redis: Redis) -> Entry:
    """Retry the one parked event and take it."""
    await overdue(redis, keys.parked("distance"))
    await maintenance.retry_due(["distance"], most=9)
    (entry,) = await distance.take(9)
    return entry


async def test_each_failure_is_a_step_with_its_answer_and_the_time_of_the_next_try(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    distance, entry, event = await ready(journal, consumers)
    for answer in ("HTTP 503: MongoDB is away", "timeout: no response in 30 s"):
        await settled(distance, Park(entry, event.id, failure(answer), 60))
        entry = await retried(distance, maintenance, redis)
    first, second = await steps_of(journal, event)
    assert (first.did, first.answer, first.given_out) == ("failed", "HTTP 503: MongoDB is away", 1)
    assert (second.did, second.answer) == ("failed", "timeout: no response in 30 s")
    assert first.time <= second.time
    assert first.due is not None
    assert (first.due - first.time).total_seconds() == 60
    await settled(distance, Complete(entry, event.id, reply_to(event)))
    assert len(await steps_of(journal, event)) == 2, "the channel that it reaches next has the time of the success"
    assert [*await journal.status(event.id)] == [RAW, CALCULATED], "visitors see channels alone"
    assert 0 < await redis.pttl(keys.status(event.id)) <= HOUR + 60_000


async def test_success_without_a_reply_is_a_step(journal: Journal, redis: Redis, consumers: Consumers) -> None:
    distance, entry, event = await ready(journal, consumers)
    await settled(distance, Complete(entry, event.id, None))
    (step,) = await steps_of(journal, event)
    assert (step.did, step.answer, step.due, step.given_out) == ("delivered", "", None, 1)
    assert 0 < await redis.pttl(keys.status(event.id)) <= HOUR


async def test_several_answers_are_a_step_if_the_event_was_delivered_before(
    journal: Journal, redis: Redis, consumers: Consumers
) -> None:
    """Otherwise the channel that the answers reach has the time of the success."""
    distance, entry, event = await ready(journal, consumers)
    await settled(distance, Split(entry, event.id, []))
    assert await steps_of(journal, event) == []
    _, entry, event = await ready(journal, consumers)
    await abandoned(redis, distance, entry)
    (again,) = (await consumers("distance", "other").take_over(9, claim=30)).entries
    await settled(distance, Split(again, event.id, []))
    (step,) = await steps_of(journal, event)
    assert (step.did, step.given_out) == ("delivered", 2)


async def test_reached_names_channels_stages_that_have_ended_and_the_number_of_parts(
    journal: Journal, redis: Redis, consumers: Consumers
) -> None:
    distance = consumers("distance")
    await made(distance)
    first, second, third = await taken(journal, distance, 3)
    ids = [event_of(entry).id for entry in (first, second, third)]
    await settled(distance, Split(first, ids[0], [reply_to(event_of(first)), reply_to(event_of(first))]))
    await settled(distance, Complete(second, ids[1], None))
    await settled(distance, Park(third, ids[2], failure(), 60))
    await redis.hset(keys.status(ids[2]), "parts:odd", "of another program")
    assert await journal.reached([*ids, "unknown"]) == [
        {RAW: 0, CALCULATED: 0, "parts:distance": 2},
        {RAW: 0, "ended:distance": 0},
        {RAW: 0, "parts:odd": 0},
        {},
    ]
    assert await journal.reached(["unknown"]) == [{}]
    assert await journal.reached([]) == []


async def test_success_of_a_stage_that_emits_nothing_is_a_step_after_a_failure_alone(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    """A first success costs no write: that its entry is finished says the same."""
    audit = consumers("distance", emits=False)
    await made(audit)
    (entry,) = await taken(journal, audit)
    event = event_of(entry)
    await redis.pexpire(keys.status(event.id), HOUR // 2)
    await settled(audit, Complete(entry, event.id, None))
    assert await steps_of(journal, event) == []
    assert HOUR - 60_000 < await redis.pttl(keys.status(event.id)) <= HOUR

    (entry,) = await taken(journal, audit)
    event = event_of(entry)
    await settled(audit, Park(entry, event.id, failure(), 60))
    await settled(audit, Complete(await retried(audit, maintenance, redis), event.id, None))
    assert [step.did for step in await steps_of(journal, event)] == ["failed", "delivered"]


async def test_delay_is_a_step_with_the_time_that_the_event_is_due(journal: Journal, consumers: Consumers) -> None:
    distance, entry, event = await ready(journal, consumers)
    await settled(distance, Delay(entry, event.id, 60))
    (step,) = await steps_of(journal, event)
    assert (step.did, step.answer) == ("delayed", "")
    assert step.due is not None
    assert round(step.due.timestamp() * 1000) == entry.since + 60_000


async def test_dead_letter_and_its_replay_are_steps(
    journal: Journal, redis: Redis, consumers: Consumers, table: Table
) -> None:
    await table(distance=(RAW, CALCULATED))
    distance, entry, event = await ready(journal, consumers)
    await settled(distance, Bury(entry, event.id, failure("HTTP 422: lat")))
    (letter,) = await journal.admin.dead_letters("distance")
    await journal.admin.replay("distance", [letter.entry])
    buried, replayed = await steps_of(journal, event)
    assert (buried.did, buried.answer) == ("buried", "HTTP 422: lat")
    assert replayed.did == "replayed"
    assert 0 < await redis.pttl(keys.status(event.id)) <= HOUR


async def test_event_that_failed_after_its_deadline_has_one_step(journal: Journal, consumers: Consumers) -> None:
    distance, entry, event = await ready(journal, consumers)
    late = replace(entry, since=entry.since - 25 * HOUR)
    assert await settled(distance, Park(late, event.id, failure("HTTP 500"), 1)) == "buried"
    (step,) = await steps_of(journal, event)
    assert (step.did, step.answer) == ("buried", "deadline passed; last: HTTP 500")


async def test_step_says_that_the_entry_was_given_out_again(
    journal: Journal, redis: Redis, consumers: Consumers
) -> None:
    """Its first bridge has died. A reply has a step then too."""

    async def taken_over(settlement: type[Complete | Park | Bury]) -> HistoryStep:
        dead, alive = consumers("distance", "dead"), consumers("distance", "alive")
        await made(dead)
        (entry,) = await taken(journal, dead)
        await abandoned(redis, dead, entry)
        (entry,) = (await alive.take_over(1, claim=30)).entries
        event = event_of(entry)
        answers: dict[type, Settlement] = {
            Complete: Complete(entry, event.id, reply_to(event)),
            Park: Park(entry, event.id, failure(), 60),
            Bury: Bury(entry, event.id, failure()),
        }
        await settled(alive, answers[settlement])
        (step,) = await steps_of(journal, event)
        return step

    found = [await taken_over(Complete), await taken_over(Park), await taken_over(Bury)]
    assert [(step.did, step.given_out) for step in found] == [("delivered", 2), ("failed", 2), ("buried", 2)]


async def test_entries_that_are_settled_together_each_have_their_own_count(
    journal: Journal, redis: Redis, consumers: Consumers
) -> None:
    dead, alive = consumers("distance", "dead"), consumers("distance", "alive")
    await made(dead)
    await abandoned(redis, dead, *await taken(journal, dead, 2))
    again = (await alive.take_over(2, claim=30)).entries
    entries = [*again, *await taken(journal, alive)]
    await alive.settle([Complete(entry, event_of(entry).id, None) for entry in entries])
    assert [(await steps_of(journal, event_of(entry)))[0].given_out for entry in entries] == [2, 2, 1]


async def test_history_keeps_its_first_step_and_the_latest_ones(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    distance, entry, event = await ready(journal, consumers)
    for number in range(KEPT + 3):
        await settled(distance, Park(entry, event.id, failure(f"{number}" + "é" * 500), 60))
        entry = await retried(distance, maintenance, redis)
    _, histories = await journal.whole_status(event.id)
    history = histories["distance"]
    assert history.count == KEPT + 3
    assert [step.answer.partition("é")[0] for step in history.steps] == ["0", *map(str, range(4, KEPT + 3))]
    assert history.steps[0].answer == "0" + "é" * 149, "300 bytes, and no broken letter"


async def test_stages_of_one_channel_have_a_history_each(journal: Journal, consumers: Consumers) -> None:
    distance, audit = consumers("distance"), consumers("audit")
    await made(distance, audit)
    (entry,) = await taken(journal, distance)
    (same,) = await audit.take(1)
    event = event_of(entry)
    await settled(distance, Park(entry, event.id, failure("HTTP 500"), 60))
    await settled(audit, Complete(same, event.id, None))
    assert [step.did for step in await steps_of(journal, event)] == ["failed"]
    assert [step.did for step in await steps_of(journal, event, "audit")] == ["delivered"]


async def test_history_that_cannot_be_written_or_read_stops_no_event(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    distance, entry, event = await ready(journal, consumers)
    for broken in ("no JSON", '{"count":1}', '{"count":1,"steps":[{}]}', "[]", '"text"', "1"):
        await redis.hset(keys.status(event.id), f"{keys.HISTORY}distance", broken)
        assert await steps_of(journal, event) == []
        assert [*await journal.status(event.id)] == [RAW]
        assert await settled(distance, Park(entry, event.id, failure(), 60)) == "done"
        entry = await retried(distance, maintenance, redis)
    await redis.set(keys.status(event.id), "of another type")
    assert await settled(distance, Park(entry, event.id, failure(), 60)) == "done"


async def test_entry_without_an_event_has_no_history(journal: Journal, redis: Redis, consumers: Consumers) -> None:
    distance, entry, _ = await ready(journal, consumers)
    assert await settled(distance, Complete(entry, "", None)) == "done"
    assert not await redis.exists(keys.status(""))


async def test_channel_that_is_called_like_a_history_cannot_exist() -> None:
    """So a stranger's event writes no history."""
    with pytest.raises(EventError, match="control characters"):
        submission(channel=f"{keys.HISTORY}distance")
