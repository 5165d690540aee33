"""Recovery times of histories that were made up."""

from tests.faults.history import Operation
from tests.faults.recovery import Recovery, rates, recovery


def delivered(event_id: str, begin: float, stage: str = "store", answer: int | None = 200) -> Operation:
    return Operation("deliver", begin, begin + 0.1, event_id, answer, stage)


def ended(begin: float) -> Operation:
    return Operation("end", begin, begin + 2, answer=9, by="milepost.bridge")


def test_a_history_without_a_redelivery_has_no_recovery() -> None:
    assert recovery([delivered("a", 0), ended(1), delivered("b", 2)]) == Recovery(0.0, 0)


def test_a_redelivery_counts_from_the_last_end_of_a_process_before_it() -> None:
    history = [delivered("a", 0), delivered("b", 0.5), ended(1), delivered("a", 3), ended(4), delivered("b", 7.5)]
    assert recovery(history) == Recovery(3.5, 0)


def test_an_event_that_was_parked_before_the_end_of_a_process_is_not_counted() -> None:
    assert recovery([delivered("a", 0, answer=503), ended(1), delivered("a", 9)]) == Recovery(0.0, 0)
    assert recovery([delivered("a", 0, answer=None), ended(1), delivered("a", 9)]) == Recovery(8.0, 0)


def test_new_events_delivered_between_redeliveries_to_the_same_stage_are_counted() -> None:
    history = [
        delivered("a", 0),
        delivered("b", 0),
        ended(1),
        delivered("before", 3),
        delivered("a", 4),
        delivered("between", 4.5),
        delivered("elsewhere", 4.5, stage="email"),
        delivered("b", 5),
        delivered("after", 6),
    ]
    assert recovery(history) == Recovery(4.0, 1)


def test_rates_leave_out_the_time_from_the_first_end_of_a_process_until_the_last_is_back() -> None:
    mails = [Operation("mail", at, at + 0.1) for at in (0, 1, 2, 2.5, 3, 5, 9, 9.5, 10)]
    history = [*mails[:4], ended(4), *mails[4:6], ended(6), *mails[6:]]
    assert rates(history) == "1 e-mails a second before the fault, 2 after it"
    assert rates(mails) == rates([ended(4)]) == ""
