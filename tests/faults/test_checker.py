"""The checker of histories finds each kind of fault in a history that was made up."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.checker import Verdict, check
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


LATE = changed(one("deliver", "a", "store"), begin=3.0, end=3.1)
"""The later submission of ada's comes to `store`, and is answered, before the earlier one."""


@pytest.mark.parametrize(
    "history",
    [
        pytest.param(LATE, id="answered first"),
        pytest.param(changed(one("deliver", "a", "store"), end=2.45), id="begun before the earlier one was answered"),
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
    verdict = check(history, ordered=["distance", "store"])
    assert (verdict.inverted, list(verdict.broken)) == (1, ["out of order"])
    assert check(history).broken == {}, "the row is not ordered"


@pytest.mark.parametrize(
    "history",
    [
        pytest.param(GOOD, id="in order"),
        pytest.param([*GOOD, replace(one("deliver", "a", "store"), begin=5, end=5.1)], id="the earlier one came again"),
        pytest.param([*LATE, Operation("bury", 9, 9, "a", by="store")], id="the earlier one was a dead letter"),
        pytest.param(
            [*LATE[:-1], replace(one("publish", "a"), end=2.05), *LATE[-1:]][1:], id="they were published at one time"
        ),
        pytest.param(changed(one("deliver", "b", "store"), begin=3.0, end=3.1), id="another address"),
    ],
)
def test_order_is_asked_of_first_effects_and_of_one_address_alone(history: list[Operation]) -> None:
    assert check(sorted(history, key=lambda one: one.begin), ordered=["distance", "store"]).broken == {}


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
        verdict = check([*gone, one("publish", event_id), end], may_lose=2.0)
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
