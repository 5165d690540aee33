"""The checker of histories finds each kind of fault in a history that was made up."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.checker import Allowed, Verdict, check
from tests.faults.history import History, Operation, Recorder, merged, write

ADDRESSES = {"a": "ada@example.org", "b": "bob@example.org", "c": "ada@example.org"}
"""By id. The two submissions of one address have different places."""


def line(event_id: str) -> str:
    return f"Email sent to: {ADDRESSES[event_id]}; Message: {event_id}"


def submission(event_id: str, begin: float) -> list[Operation]:
    """All operations of a submission that met no fault."""
    to, text = ADDRESSES[event_id], line(event_id)
    return [
        Operation("publish", begin, begin + 0.1, event_id, 202, "gateway", to, text),
        Operation("deliver", begin + 0.2, begin + 0.3, event_id, 200, "distance", to),
        Operation("deliver", begin + 0.4, begin + 0.5, event_id, 200, "store", to),
        Operation("deliver", begin + 0.6, begin + 0.8, event_id, 200, "email", to),
        Operation("mail", begin + 0.6, begin + 0.7, to=to, line=text),
        Operation("record", 100, 100, event_id, to=to, line=text),
        Operation("mark", 100, 100, event_id, 1, to=to, line=text),
    ]


GOOD = [operation for begin, event_id in enumerate(ADDRESSES) for operation in submission(event_id, float(begin))]


def one(kind: str, event_id: str = "a", by: str = "") -> Operation:
    """The operation of this kind in the good history."""
    (found,) = (
        operation
        for operation in GOOD
        if operation.kind == kind
        and by in {"", operation.by}
        and (operation.line == line(event_id) or operation.id == event_id)
    )
    return found


def without(*gone: Operation) -> list[Operation]:
    return [operation for operation in GOOD if operation not in gone]


def changed(operation: Operation, **fields: object) -> list[Operation]:
    return [*without(operation), replace(operation, **fields)]  # type: ignore[arg-type]


def times(operation: Operation, begin: float, end: float) -> Operation:
    return replace(operation, begin=begin, end=end)


def in_order(history: list[Operation]) -> list[Operation]:
    return sorted(history, key=lambda operation: operation.begin)


def test_a_good_history_breaks_no_rule() -> None:
    assert check(GOOD) == Verdict(accepted=3, emails=3)


@pytest.mark.parametrize(
    ("rule", "history", "figures"),
    [
        pytest.param("lost", without(one("mail"), one("deliver", by="email")), {"lost": 1}, id="lost"),
        pytest.param(
            "no mail", [*without(one("mail")), Operation("left", 9, 9, "a", by="parked")], {"stuck": 1}, id="in Redis"
        ),
        pytest.param("left in dead", [*GOOD, Operation("left", 9, 9, "b", by="dead")], {"stuck": 1}, id="left"),
        pytest.param("not asked for", changed(one("publish"), answer=422), {"doubled": 1}, id="refused and mailed"),
        pytest.param("not asked for", changed(one("publish"), answer=400), {"doubled": 1}, id="bad and mailed"),
        pytest.param("not asked for", without(one("publish", "b")), {"doubled": 1}, id="never published"),
        pytest.param(
            "not asked for", [*GOOD, replace(one("deliver", by="distance"), id="x")], {}, id="a delivery of another id"
        ),
        pytest.param("not asked for", [*GOOD, replace(one("record"), id="x")], {}, id="a record of another id"),
        pytest.param("done twice", [*GOOD, one("mail")], {"doubled": 1}, id="two mails"),
        pytest.param("done twice", [*GOOD, replace(one("record"), id="c")], {"doubled": 1}, id="two records"),
        pytest.param(
            "wrong distance", [*GOOD, replace(one("mail"), line=line("a") + "7")], {"doubled": 1}, id="no such distance"
        ),
        pytest.param(
            "lost",
            changed(one("mail"), line=line("c")),
            {"lost": 1, "doubled": 1},
            id="the distance of the other submission",
        ),
        pytest.param(
            "wrong distance", changed(one("record"), line=line("c")), {}, id="a record with the other distance"
        ),
        pytest.param("wrong distance", changed(one("mark"), line=line("c")), {}, id="a mark with the other distance"),
        pytest.param("effect before its cause", changed(one("mail", "c"), begin=0.0, end=0.5), {}, id="mailed early"),
        pytest.param(
            "effect before its cause", changed(one("deliver", "c", "store"), begin=0.5), {}, id="delivered early"
        ),
        pytest.param("mail without a delivery", without(one("deliver", by="email")), {}, id="no delivery"),
        pytest.param("answered without effect", without(one("record")), {}, id="store answered, nothing is kept"),
        pytest.param("mail without a record", without(one("record")), {}, id="mailed, and nothing is kept"),
        pytest.param(
            "mail without a record",
            without(one("deliver", by="store"), one("record")),
            {"lost": 0},
            id="mailed, and store had nothing",
        ),
        pytest.param("out of turn", without(one("deliver", by="store")), {}, id="email without store"),
        pytest.param("out of turn", changed(one("deliver", by="store"), answer=503), {}, id="email, and store failed"),
        pytest.param(
            "out of turn", changed(one("deliver", by="distance"), end=0.45), {}, id="store before distance answered"
        ),
        pytest.param(
            "not asked for",
            changed(one("publish"), answer=503, full=True),
            {"doubled": 1},
            id="the backlog was full, and mailed",
        ),
        pytest.param(
            "effect before its cause",
            [*changed(one("publish"), answer=503, full=True), times(one("publish"), 0.65, 0.7)],
            {},
            id="the backlog was full, and mailed before the next try",
        ),
        pytest.param(
            "not delivered", [*GOOD, Operation("publish", 5, 6, "x", 202)], {"accepted": 3}, id="of another stage"
        ),
        pytest.param(
            "not delivered",
            [*GOOD, Operation("publish", 5, 6, "x", 202), Operation("deliver", 7, 8, "x", 503, "bulk")],
            {},
            id="of another stage, which failed",
        ),
        pytest.param(
            "answered without effect", without(one("mail")), {"lost": 1}, id="email answered, nothing is mailed"
        ),
    ],
)
def test_a_bad_history_breaks_the_rule(rule: str, history: list[Operation], figures: dict[str, int]) -> None:
    verdict = check(history)
    assert rule in verdict.broken
    assert {name: getattr(verdict, name) for name in figures} == figures


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([*changed(one("publish"), id=None, answer=None, end=None)], id="no answer, and mailed"),
        pytest.param([*GOOD, replace(one("publish"), id=None, answer=503)], id="refused for now, then accepted"),
        pytest.param(
            [one("publish", "b"), replace(one("publish"), answer=503), *submission("b", 1)[1:]], id="503 alone"
        ),
        pytest.param(
            [one("publish", "b"), replace(one("publish"), answer=503, full=True), *submission("b", 1)[1:]],
            id="refused as the backlog was full",
        ),
        pytest.param(
            [*GOOD, times(replace(one("publish"), answer=503, full=True), -1, -0.5)],
            id="refused as the backlog was full, then accepted",
        ),
        pytest.param(
            [*GOOD, Operation("publish", 5, 6, "x", 202), Operation("deliver", 7, 8, "x", 204, "bulk")],
            id="of another stage, and taken",
        ),
        pytest.param(
            [*GOOD, times(replace(one("deliver", by="store"), answer=None), 0.35, 0.36)], id="store failed at first"
        ),
        pytest.param(changed(one("publish"), id=None, answer=408), id="too slow, and mailed"),
        pytest.param(changed(one("publish"), id=None, answer=500), id="failed, and mailed"),
        pytest.param([*GOOD, one("deliver", by="email"), one("deliver", by="store")], id="delivered twice"),
        pytest.param(
            [*GOOD, replace(one("deliver", by="email"), end=None, answer=None)], id="a delivery that was cut off"
        ),
    ],
)
def test_a_history_with_a_fault_that_is_allowed_breaks_no_rule(history: list[Operation]) -> None:
    assert check(history).broken == {}


HALF = without(one("publish"), one("deliver", by="email"), one("mail"), one("mark"))
"""`distance` and `store` answered, and there is a record; the mail is missing."""

UNANSWERED = replace(one("publish"), answer=None, end=None)


@pytest.mark.parametrize("attempt", [UNANSWERED, replace(UNANSWERED, id=None)], ids=["id known", "id not known"])
@pytest.mark.parametrize(
    "done",
    [
        pytest.param(HALF, id="kept, and not mailed"),
        pytest.param([one for one in HALF if one.kind != "record" or one.id != "a"], id="nothing is kept"),
        pytest.param(
            [one for one in HALF if one.id != "a" or one.by == "distance"], id="distance had it, and nothing more"
        ),
    ],
)
def test_half_of_a_submission_without_an_answer_is_found(attempt: Operation, done: list[Operation]) -> None:
    rule = "begun and not finished"
    history = in_order([attempt, *done])
    assert rule in check(history).broken
    before, after = Operation("failover", -30, -20), Operation("failover", 9, 10)
    assert rule in check([before, *history, after], Allowed(unconfirmed=True)).broken
    undone = Operation("failover", 0.25, 5)
    assert rule not in check([undone, *history]).broken
    destroyed = Operation("destroy", 9, 9, "a")
    assert rule not in check([*history, destroyed]).broken


def test_a_submission_without_an_answer_may_come_to_no_stage() -> None:
    nothing = [operation for operation in HALF if operation.id != "a"]
    assert check([UNANSWERED, *nothing]) == Verdict(accepted=2, emails=2)


def test_a_loss_is_excused_only_by_a_failover_that_no_door_waits_for() -> None:
    gone = in_order([one("publish"), *(operation for operation in HALF if operation.id != "a")])
    during, later = Operation("failover", 0, 5), Operation("failover", 3, 5)
    assert check([during, *gone], Allowed(unconfirmed=True)).broken == {}
    assert list(check([during, *gone]).broken) == ["lost"]
    assert list(check([*gone, later], Allowed(unconfirmed=True)).broken) == ["lost"]
    stuck = Operation("left", 9, 9, "b", by="journals")
    found = check([during, *gone, one("mail", "b"), stuck], Allowed(unconfirmed=True))
    assert (list(found.broken), found.doubled, found.stuck) == (["done twice", "left in journals"], 1, 1)


def late(event_id: str, begin: float = 3.0, end: float = 3.1) -> list[Operation]:
    """The good history, but that this event comes to `store` at another time, and is mailed after it."""
    changes = {
        one("deliver", event_id, "store"): (begin, end),
        one("deliver", event_id, "email"): (4.0, 4.2),
        one("mail", event_id): (4.0, 4.1),
    }
    return [times(operation, *changes[operation]) if operation in changes else operation for operation in GOOD]


LATE = late("a")
"""The later submission of ada's comes to `store`, and is answered, before the earlier one."""

CUT_OFF = replace(one("deliver", "c", "store"), end=None, answer=None)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param(LATE, id="answered first"),
        pytest.param(late("a", 0.4, 2.45), id="begun before the earlier one was answered"),
        pytest.param([*late("c"), replace(CUT_OFF, begin=0.45)], id="cut off before the earlier one was answered"),
        pytest.param(
            [*late("c"), replace(CUT_OFF, begin=0.45, end=0.46, answer=503)],
            id="failed before the earlier one was answered",
        ),
        pytest.param(
            [*LATE, replace(one("deliver", "a", "store"), answer=503)], id="the earlier one had failed before"
        ),
        pytest.param(
            [*LATE, replace(one("deliver", "a", "store"), end=None, answer=None)],
            id="the earlier one was cut off before",
        ),
        pytest.param([*LATE, Operation("bury", 9, 9, "a", by="distance")], id="a dead letter of another stage"),
    ],
)
def test_submissions_of_one_address_that_change_places_are_found(history: list[Operation]) -> None:
    verdict = check(in_order(history), ordered=["distance", "store"])
    assert (verdict.inverted, verdict.broken.keys()) == (1, {"out of order", *check(in_order(history)).broken})


@pytest.mark.parametrize(
    "history",
    [
        pytest.param(GOOD, id="in order"),
        pytest.param([*late("c"), CUT_OFF], id="the later one was cut off, after the earlier one was answered"),
        pytest.param([*GOOD, replace(one("deliver", "a", "store"), begin=5, end=5.1)], id="the earlier one came again"),
        pytest.param([*LATE, Operation("bury", 9, 9, "a", by="store")], id="the earlier one was a dead letter"),
        pytest.param(
            [replace(one("publish", "a"), end=2.05), *(each for each in LATE if each != one("publish", "a"))],
            id="they were published at one time",
        ),
        pytest.param(late("b"), id="another address"),
    ],
)
def test_order_is_asked_of_first_effects_and_of_one_address_alone(history: list[Operation]) -> None:
    assert check(in_order(history), ordered=["distance", "store"]).broken == {}


def test_a_failover_excuses_an_order_only_of_entries_that_no_replica_confirmed() -> None:
    ordered, during, before = ["distance", "store"], Operation("failover", 1, 2), Operation("failover", -30, -20)
    history = in_order(LATE)
    assert check([during, *history], ordered=ordered).inverted == 1
    assert check([during, *history], Allowed(unconfirmed=True), ordered=ordered).inverted == 0
    assert check([before, *history], Allowed(unconfirmed=True), ordered=ordered).inverted == 1
    unconfirmed = in_order([operation for operation in LATE if operation != one("publish", "c")])
    refused = replace(one("publish", "c"), answer=503)
    assert check([during, refused, *unconfirmed], ordered=ordered).inverted == 0
    assert check([refused, *unconfirmed], ordered=ordered).inverted == 1


def sides(event_id: str) -> dict[str, str]:
    return {f"{event_id}/0": "left", f"{event_id}/1": "right"}


PARTS = [Operation("part", 9, 9, part, by=side) for event_id in ADDRESSES for part, side in sides(event_id).items()]


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        pytest.param("part without an answer", PARTS[1:], id="one of two"),
        pytest.param("part without an answer", PARTS[2:], id="none"),
        pytest.param("done twice", [*PARTS, PARTS[0]], id="twice"),
        pytest.param("on another channel", [*PARTS, replace(PARTS[0], by="right")], id="on both channels"),
        pytest.param("on another channel", [*PARTS, replace(PARTS[0], id="a/2")], id="too many"),
        pytest.param("not asked for", [*PARTS, replace(PARTS[0], id="x/0")], id="of another event"),
    ],
)
def test_a_part_of_a_split_event_without_its_one_answer_is_found(rule: str, parts: list[Operation]) -> None:
    assert check([*GOOD, *PARTS], parts=sides).broken == {}
    assert check([*GOOD, *parts], parts=sides).broken.keys() >= {rule}


def test_a_split_event_without_an_answer_of_the_door_has_all_parts_or_none() -> None:
    unanswered = changed(one("publish"), id=None, answer=None, end=None)
    named = [replace(part, to=ADDRESSES["a"]) for part in PARTS]
    assert check([*unanswered, *named], parts=sides).broken == {}
    assert check([*unanswered, *named[2:]], parts=sides).broken == {}
    assert list(check([*unanswered, *named[1:]], parts=sides).broken) == ["part without an answer"]


def test_a_mail_that_was_taken_twice_may_be_sent_twice() -> None:
    verdict = check([*changed(one("mark"), answer=2), one("mail")])
    assert (verdict.resent, verdict.doubled, verdict.broken) == (1, 0, {})
    assert check([*changed(one("mark"), answer=2), one("mail"), one("mail")]).doubled == 1


def test_an_event_that_the_row_destroyed_is_not_lost() -> None:
    gone = without(one("mail"), one("record"), one("mark"), one("deliver", by="store"), one("deliver", by="email"))
    verdict = check([*gone, Operation("destroy", 9, 9, "a")])
    assert (verdict.destroyed, verdict.lost, verdict.broken) == (1, 0, {})


def test_only_submissions_accepted_shortly_before_the_end_of_redis_may_be_lost() -> None:
    end = Operation("end", 2.5, 4.0, answer=9, by="redis")
    for event_id, allowed in {"a": False, "b": True}.items():  # accepted at 0.1 and at 1.1
        gone = [operation for operation in GOOD if event_id not in {operation.id, operation.line.rpartition(" ")[2]}]
        verdict = check([*gone, one("publish", event_id), end], Allowed(2.0))
        assert verdict.lost == 1
        assert ("lost" not in verdict.broken) is allowed
        assert verdict.oldest_lost == (pytest.approx(1.4) if allowed else 0.0)


def test_the_history_of_a_killed_process_has_the_delivery_that_did_not_end(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "store")
    ended = recorder.begin({"a": "ada@example.org", "b": "bob@example.org"})
    recorder.begin({"a": "ada@example.org"})
    recorder.end(ended, {"a": 200, "b": 503})
    with next(tmp_path.glob("*.jsonl")).open("ab") as file:
        file.write(b'{"n": 2, "end"')  # killed while it wrote
    history = History(tmp_path)
    history.add(Operation("publish", 0.0, 0.1, "a", 202))
    found = history.read()
    assert [(one.kind, one.id, one.answer, one.end is None) for one in found] == [
        ("publish", "a", 202, False),
        ("deliver", "a", 200, False),
        ("deliver", "b", 503, False),
        ("deliver", "a", None, True),
    ]
    write(tmp_path / "history", found)
    assert [Operation.of_json(text) for text in (tmp_path / "history").read_bytes().splitlines()] == found
    assert list(merged([])) == []
