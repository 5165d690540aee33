"""Decide from a history whether the promises held. Nothing else is asked: no server, no clock.

1. Accepted ⇒ effect: each accepted submission has its mail, unless it is left in Redis or the row destroyed it.
2. Effect ⇒ accepted: each mail, record and delivery belongs to a submission that was accepted, or whose try had no
   answer. It comes after the submission began.
3. Answered ⇒ effect: an event that `store` answered with 2xx has a record; one that `email` did has its mail.
4. Once: a submission has at most one mail and one record. Deliveries may repeat. One mail more is allowed, and counted
   as resent, for each time that the record of `email` was taken again.
5. Each mail and record has the distance of its own submission.
6. Nothing is left in Redis.
7. In order, where stages are ordered by address: if one submission was accepted before another of its address began,
   each of these stages has answered the first with 2xx before the second came to it for the delivery that it answered
   first with 2xx. A submission that was a dead letter of the stage is excepted. Redeliveries may come at any time.
8. In a row that splits events: of each accepted submission every part is answered, once, and on its own channel. Of one
   whose try had no answer all parts are, or none.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.history import Operation

Parts = Callable[[str], Mapping[str, str]]
"""The ids of the parts of an event, each with the channel on which it must be answered."""

MOST_SHOWN = 3
"""Violations of one rule that are written out."""


@dataclass
class Verdict:
    """The figures of a row, and each rule that was broken with what broke it."""

    accepted: int = 0
    emails: int = 0
    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    resent: int = 0
    destroyed: int = 0
    inverted: int = 0
    """Submissions of an address that a stage has finished before an earlier one."""
    oldest_lost: float = 0.0
    """Seconds from the acceptance of the oldest lost submission to the end of a process that may explain the loss."""
    broken: dict[str, list[str]] = field(default_factory=dict)

    def note(self, rule: str, what: str) -> None:
        self.broken.setdefault(rule, []).append(what)

    def lines(self) -> list[str]:
        """Each broken rule in one line."""
        return [
            f"{rule}: {len(found)}, as {'; '.join(found[:MOST_SHOWN])}" for rule, found in sorted(self.broken.items())
        ]


@dataclass
class Submission:
    """All tries of one submission. Its mail, which is like no other's, names it."""

    line: str
    to: str
    begin: float
    ids: set[str] = field(default_factory=set)
    accepted: float | None = None
    """When the first 2xx came."""
    possible: bool = False
    """Accepted, or a try had no certain answer."""

    def add(self, attempt: Operation) -> None:
        if attempt.id is not None:
            self.ids.add(attempt.id)
        if is_success(attempt) and self.accepted is None:
            self.accepted = attempt.end
        self.possible |= not is_refused(attempt)


def is_success(operation: Operation) -> bool:
    return operation.answer is not None and 200 <= operation.answer < 300


def is_refused(operation: Operation) -> bool:
    """Whether it had no effect for certain. A 5xx may come of a write whose own answer was lost, and a 408 is sent by a
    process that was frozen.
    """
    return operation.answer is not None and 400 <= operation.answer < 500 and operation.answer != 408


def parent_of(part: str | None) -> str:
    """Return the id of the event that has this part; an empty text if it is none."""
    return (part or "").rpartition("/")[0]


def check(
    history: Iterable[Operation], *, may_lose: float = 0.0, ordered: Sequence[str] = (), parts: Parts | None = None
) -> Verdict:
    """Judge a history, sorted by `begin`. Submissions accepted in the last `may_lose` seconds before the end of a
    component may be lost. `ordered`: the stages that are ordered by address. `parts`: if events are split.
    """
    return _Check(history).verdict(may_lose, ordered, parts)


class _Check:
    def __init__(self, history: Iterable[Operation]) -> None:
        kinds: defaultdict[str, list[Operation]] = defaultdict(list)
        for operation in history:
            kinds[operation.kind].append(operation)
        self._kinds: Mapping[str, Sequence[Operation]] = kinds
        self._submissions: dict[str, Submission] = {}
        for attempt in kinds["publish"]:
            new = Submission(attempt.line, attempt.to, attempt.begin)
            self._submissions.setdefault(attempt.line, new).add(attempt)
        self._by_id = {event_id: one for one in self._submissions.values() for event_id in one.ids}
        self._nameless: defaultdict[str, list[Submission]] = defaultdict(list)
        """By address, possible submissions whose id no client knows."""
        for one in self._submissions.values():
            if one.possible and not one.ids:
                self._nameless[one.to].append(one)
        self._mails: defaultdict[str, list[Operation]] = defaultdict(list)
        for mail in kinds["mail"]:
            self._mails[mail.line].append(mail)
        self._verdict = Verdict()

    def verdict(self, may_lose: float, ordered: Sequence[str], parts: Parts | None) -> Verdict:
        self._accepted_have_effects(may_lose)
        self._mails_are_asked_for_and_sent_once()
        self._records_are_asked_for_and_made_once()
        self._deliveries_are_asked_for_and_answered_truly()
        self._nothing_is_left()
        for stage in ordered:
            self._finished_in_order(stage)
        if parts:
            self._parts_are_answered_once(parts)
        return self._verdict

    def _accepted_have_effects(self, may_lose: float) -> None:
        found = self._verdict
        left = {operation.id for operation in self._kinds["left"]}
        destroyed = {operation.id for operation in self._kinds["destroy"]}
        ends = [(one.begin, one.end or one.begin) for one in self._kinds["end"]]
        for one in self._submissions.values():
            if one.accepted is None:
                continue
            found.accepted += 1
            if one.line in self._mails:
                continue
            if one.ids & left:
                found.note("no mail", one.line)
            elif one.ids & destroyed:
                found.destroyed += 1
            else:
                found.lost += 1
                ages = [end - one.accepted for end, back in ends if end - may_lose <= one.accepted <= back]
                if may_lose and ages:
                    found.oldest_lost = max(found.oldest_lost, min(ages))
                else:
                    found.note("lost", f"{sorted(one.ids)} {one.line}")

    def _mails_are_asked_for_and_sent_once(self) -> None:
        found = self._verdict
        taken = Counter({mark.line: mark.answer or 0 for mark in self._kinds["mark"]})
        addresses = {one.to for one in self._submissions.values()}
        delivered = {(operation.to, operation.id) for operation in self._kinds["deliver"] if operation.by == "email"}
        delivered_to = {to for to, _ in delivered}
        for line, mails in self._mails.items():
            found.emails += len(mails)
            one = self._submissions.get(line)
            if one is None or not one.possible:
                found.doubled += len(mails)
                found.note("wrong distance" if one is None and mails[0].to in addresses else "not asked for", line)
                continue
            first = min(mail.end or mail.begin for mail in mails)
            if first < one.begin:
                found.note("effect before its cause", line)
            if one.to not in delivered_to or (one.ids and not any((one.to, known) in delivered for known in one.ids)):
                found.note("mail without a delivery", line)
            extra = len(mails) - 1
            resent = min(extra, max(0, taken[line] - 1))
            found.resent += resent
            found.doubled += extra - resent
            if extra > resent:
                found.note("done twice", line)
        for mark in self._kinds["mark"]:
            self._own_distance(mark)

    def _records_are_asked_for_and_made_once(self) -> None:
        records = self._kinds["record"]
        for record in records:
            self._own_distance(record)
        for line, count in Counter(record.line for record in records).items():
            if count > 1:
                self._verdict.doubled += count - 1
                self._verdict.note("done twice", f"record of {line}")

    def _own_distance(self, record: Operation) -> None:
        owners = self._owners(record)
        if not owners:
            self._verdict.note("not asked for", f"{record.kind} {record.id} {record.line}")
        elif all(one.line != record.line for one in owners):
            self._verdict.note("wrong distance", f"{record.kind} {record.id} {record.line}")

    def _owners(self, operation: Operation) -> Sequence[Submission]:
        """The submissions that an effect may come of. A client that had no answer may not know the id."""
        known = self._by_id.get(operation.id or "") or self._by_id.get(parent_of(operation.id))
        return [known] if known is not None and known.possible else self._nameless[operation.to]

    def _deliveries_are_asked_for_and_answered_truly(self) -> None:
        found = self._verdict
        kept = {record.id for record in self._kinds["record"]}
        for delivery in self._kinds["deliver"]:
            owners = self._owners(delivery)
            what = f"{delivery.by} {delivery.id} {delivery.to}"
            if not owners:
                found.note("not asked for", what)
            elif delivery.begin < min(one.begin for one in owners):
                found.note("effect before its cause", what)
            elif is_success(delivery):
                mailed = any(one.line in self._mails for one in owners)
                if (delivery.by == "store" and delivery.id not in kept) or (delivery.by == "email" and not mailed):
                    found.note("answered without effect", what)

    def _nothing_is_left(self) -> None:
        self._verdict.stuck = len(self._kinds["left"])
        for operation in self._kinds["left"]:
            self._verdict.note(f"left in {operation.by}", str(operation.id))

    def _parts_are_answered_once(self, parts: Parts) -> None:
        found = self._verdict
        answers: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        for one in self._kinds["part"]:
            answers[parent_of(one.id)][one.id or "", one.by] += 1
            if not self._owners(one):
                found.note("not asked for", f"{one.by} {one.id}")
        accepted = {event_id for event_id, one in self._by_id.items() if one.accepted is not None}
        for event_id in sorted(accepted | set(answers)):
            expected, have = Counter(parts(event_id).items()), answers[event_id]
            for part, channel in expected - have:
                found.note("part without an answer", f"{channel} {part}")
            for part, channel in have - expected:
                twice = (part, channel) in expected
                found.note("done twice" if twice else "on another channel", f"{channel} {part}")

    def _finished_in_order(self, stage: str) -> None:
        first: dict[str, Operation] = {}
        for delivery in self._kinds["deliver"]:
            if delivery.by == stage and is_success(delivery) and delivery.id is not None:
                known = first.get(delivery.id)
                if known is None or (delivery.end or 0) < (known.end or 0):
                    first[delivery.id] = delivery
        dead = {operation.id for operation in self._kinds["bury"] if operation.by == stage}
        of_address: defaultdict[str, list[tuple[Submission, Operation]]] = defaultdict(list)
        for one in self._submissions.values():
            finished = [first[event_id] for event_id in one.ids - dead if event_id in first]
            if one.accepted is not None and len(one.ids) == 1 and finished:
                of_address[one.to].append((one, finished[0]))
        for finished_of in of_address.values():
            latest: tuple[Submission, Operation] | None = None
            accepted = sorted(finished_of, key=lambda item: item[0].accepted or 0)
            place = 0
            for one, delivery in sorted(finished_of, key=lambda item: item[0].begin):
                while place < len(accepted) and (accepted[place][0].accepted or 0) < one.begin:
                    if latest is None or (accepted[place][1].end or 0) > (latest[1].end or 0):
                        latest = accepted[place]
                    place += 1
                if latest is not None and delivery.begin < (latest[1].end or 0):
                    self._verdict.inverted += 1
                    self._verdict.note("out of order", f"{stage}: {delivery.id} before {latest[1].id}")
