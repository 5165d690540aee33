"""Decide from a history whether the promises held. Nothing else is asked: no server, no clock.

1. Accepted ⇒ effect: each accepted submission has its mail, unless it is left in Redis or the row destroyed it. An
   event for a stage of the row's own, which brings no mail, has a delivery that was answered with 2xx.
2. Effect ⇒ accepted: each mail, record and delivery belongs to a submission that was accepted, or whose try had no
   certain answer. It comes after that try began.
3. Answered ⇒ effect: an event that `store` answered with 2xx has a record; one that `email` did has its mail.
4. Once: a submission has at most one mail and one record. Deliveries may repeat. One mail more is allowed, and counted
   as resent, for each time that the record of `email` was taken again.
5. Each mail and record has the distance of its own submission.
6. Nothing is left in Redis.
7. In order, where stages are ordered by address: if one submission was accepted before another of its address began,
   no delivery of the second comes to such a stage, whatever its answer, before the stage has answered the first with
   2xx. A first one that was a dead letter of the stage is excepted. Redeliveries of the first may come at any time.
8. In a row that splits events: of each accepted submission every part is answered, once, and on its own channel. Of one
   whose try had no answer all parts are, or none.
9. Stage after stage: an event comes to `store` after `distance` has answered it with 2xx, and to `email` after `store`
   has. A submission that has its mail has its record.
10. All or none: a submission whose tries had no certain answer, and that came to a stage, has its record and its mail.

A loss of Redis excuses 1 and 10 for the submissions that it can explain, and a failover also 7; see `Allowed`.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

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
    without_mail: int = 0
    """Accepted events for a stage of the row's own."""
    inverted: int = 0
    """Submissions of an address that came to a stage before it had finished an earlier one."""
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


@dataclass(frozen=True)
class Allowed:
    """What a loss of Redis may explain in a row."""

    may_lose: float = 0.0
    """Seconds before the end of a process within which accepted submissions may be lost."""
    unconfirmed: bool = False
    """Whether a failover may lose accepted submissions too, since no door waits for a replica."""


CHAIN = ("distance", "store", "email")
"""The stages of a submission, in their order."""

LAG = 1.0
"""Seconds that replicas may be behind when a failover begins."""

TWO_PRIMARIES = 15.0
"""Seconds after a decision for which the old primary may still take writes. A Sentinel waits for 8 s before it makes a
primary that comes back a replica.
"""


@dataclass
class Submission:
    """All tries of one submission, named by its mail, which is like no other's; or of one event that brings none."""

    line: str
    to: str
    begin: float = math.inf
    """When the first try began that may have had an effect."""
    ids: set[str] = field(default_factory=set)
    accepted: float | None = None
    """When the first 2xx came."""

    @property
    def possible(self) -> bool:
        """Accepted, or a try had no certain answer."""
        return self.begin < math.inf

    def add(self, attempt: Operation) -> None:
        if attempt.id is not None:
            self.ids.add(attempt.id)
        if is_success(attempt) and self.accepted is None:
            self.accepted = attempt.end
        if not is_refused(attempt):
            self.begin = min(self.begin, attempt.begin)


def is_success(operation: Operation) -> bool:
    return operation.answer is not None and 200 <= operation.answer < 300


def is_refused(operation: Operation) -> bool:
    """Whether it had no effect for certain. A 5xx may come of a write whose own answer was lost, or that too few
    replicas confirmed, and a 408 is sent by a process that was frozen. That the backlog is full is certain.
    """
    answer = operation.answer
    return answer is not None and (operation.full or (400 <= answer < 500 and answer != 408))


def parent_of(part: str | None) -> str:
    """Return the id of the event that has this part; an empty text if it is none."""
    return (part or "").rpartition("/")[0]


def check(
    history: Iterable[Operation],
    allowed: Allowed = Allowed(),
    *,
    ordered: Sequence[str] = (),
    parts: Parts | None = None,
) -> Verdict:
    """Judge a history, sorted by `begin`. `ordered`: the stages that are ordered by address. `parts`: if events are
    split.
    """
    return _Check(history, allowed).verdict(ordered, parts)


class _Check:
    def __init__(self, history: Iterable[Operation], allowed: Allowed) -> None:
        kinds: defaultdict[str, list[Operation]] = defaultdict(list)
        for operation in history:
            kinds[operation.kind].append(operation)
        self._kinds: Mapping[str, Sequence[Operation]] = kinds
        self._allowed = allowed
        self._ends = [(one.begin, one.end or one.begin) for one in kinds["end"]]
        self._failovers = [(one.begin - LAG, (one.end or one.begin) + TWO_PRIMARIES) for one in kinds["failover"]]
        self._gone = {one.id for kind in ("left", "destroy") for one in kinds[kind]}
        self._submissions: dict[str, Submission] = {}
        for attempt in kinds["publish"]:
            new = Submission(attempt.line, attempt.to)
            self._submissions.setdefault(attempt.line or f"event {attempt.id}", new).add(attempt)
        self._by_id = {event_id: one for one in self._submissions.values() for event_id in one.ids}
        self._nameless: defaultdict[str, list[Submission]] = defaultdict(list)
        """By address, possible submissions whose id no client knows."""
        for one in self._submissions.values():
            if one.possible and not one.ids:
                self._nameless[one.to].append(one)
        self._mails: defaultdict[str, list[Operation]] = defaultdict(list)
        for mail in kinds["mail"]:
            self._mails[mail.line].append(mail)
        self._recorded = {record.line for record in kinds["record"]}
        self._answered: defaultdict[str, dict[str, float]] = defaultdict(dict)
        """By stage and id, when the first answer with 2xx ended."""
        for delivery in kinds["deliver"]:
            if is_success(delivery) and delivery.id is not None and delivery.end is not None:
                ends = self._answered[delivery.by]
                ends[delivery.id] = min(delivery.end, ends.get(delivery.id, math.inf))
        self._verdict = Verdict()

    def verdict(self, ordered: Sequence[str], parts: Parts | None) -> Verdict:
        self._accepted_have_effects()
        self._mails_are_asked_for_and_sent_once()
        self._records_are_asked_for_and_made_once()
        self._deliveries_are_asked_for_and_answered_truly()
        self._stages_come_in_turn()
        self._begun_is_finished()
        self._nothing_is_left()
        for stage in ordered:
            self._finished_in_order(stage)
        if parts:
            self._parts_are_answered_once(parts)
        return self._verdict

    def _accepted_have_effects(self) -> None:
        found = self._verdict
        left = {operation.id for operation in self._kinds["left"]}
        destroyed = {operation.id for operation in self._kinds["destroy"]}
        for one in self._submissions.values():
            if one.accepted is None:
                continue
            if not one.line:
                found.without_mail += 1
                if not any(ends.keys() & one.ids for ends in self._answered.values()):
                    found.note("not delivered", f"{sorted(one.ids)}")
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
                ages = self._ages(one.accepted, one.accepted)
                found.oldest_lost = max(found.oldest_lost, min(ages, default=0.0))
                if not ages and not (self._allowed.unconfirmed and self._fails_over(one.accepted, one.accepted)):
                    found.note("lost", f"{sorted(one.ids)} {one.line}")

    def _ages(self, first: float, last: float) -> list[float]:
        """How old a write of this time was when a process ended that may have lost it."""
        may_lose = self._allowed.may_lose
        return [end - first for end, back in self._ends if may_lose and first <= back and end - may_lose <= last]

    def _fails_over(self, first: float, last: float) -> bool:
        """Whether a failover may have undone a write of this time."""
        return any(first <= end and begin <= last for begin, end in self._failovers)

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
            if line not in self._recorded:
                found.note("mail without a record", line)
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

    def _stages_come_in_turn(self) -> None:
        before = dict(pairwise(reversed(CHAIN)))
        for delivery in self._kinds["deliver"]:
            if (stage := before.get(delivery.by)) and delivery.begin < self._answered[stage].get(
                delivery.id or "", math.inf
            ):
                self._verdict.note("out of turn", f"{delivery.by} {delivery.id} {delivery.to}, before {stage} answered")

    def _begun_is_finished(self) -> None:
        """Ask of each event that came to a stage and was not accepted whether all came of it."""
        lines = {record.id: record.line for record in self._kinds["record"]}
        first: dict[str, Operation] = {}
        for delivery in self._kinds["deliver"]:
            if delivery.by in CHAIN and delivery.id is not None:
                first.setdefault(delivery.id, delivery)
        for event_id, delivery in first.items():
            owners = [one for one in self._owners(delivery) if one.accepted is None]
            mailed = lines[event_id] in self._mails if event_id in lines else False
            if not owners or mailed or event_id in self._gone:
                continue
            begin = min(one.begin for one in owners)
            if not self._ages(begin, delivery.begin) and not self._fails_over(begin, delivery.begin):
                self._verdict.note("begun and not finished", f"{event_id} {delivery.to}")

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
        deliveries: defaultdict[str, list[Operation]] = defaultdict(list)
        for delivery in self._kinds["deliver"]:
            if delivery.by == stage and delivery.id is not None:
                deliveries[delivery.id].append(delivery)
        dead = {operation.id for operation in self._kinds["bury"] if operation.by == stage}
        of_address: defaultdict[str, list[tuple[Submission, str]]] = defaultdict(list)
        for one in self._submissions.values():
            if one.possible and len(one.ids) == 1:
                of_address[one.to].append((one, *one.ids))
        for known in of_address.values():
            accepted = sorted(
                (one.accepted, ended, event_id)
                for one, event_id in known
                if one.accepted is not None
                and event_id not in dead
                and (ended := self._answered[stage].get(event_id)) is not None
            )
            place, latest, first = 0, -math.inf, ""
            for later, event_id in sorted(known, key=lambda item: item[0].begin):
                while place < len(accepted) and accepted[place][0] < later.begin:
                    if accepted[place][1] > latest:
                        _, latest, first = accepted[place]
                    place += 1
                early = [one for one in deliveries[event_id] if one.begin < latest]
                if any(not self._is_of_two_primaries(later, one) for one in early):
                    self._verdict.inverted += 1
                    self._verdict.note("out of order", f"{stage}: {event_id} before {first}")

    def _is_of_two_primaries(self, later: Submission, delivery: Operation) -> bool:
        """Whether the entry of a delivery may be one of an old primary that no replica confirmed."""
        confirmed = not self._allowed.unconfirmed and later.accepted is not None and later.accepted < delivery.begin
        return not confirmed and self._fails_over(delivery.begin, delivery.begin)
