"""The steps of a submission from channel to channel, as its page shows them."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from functions.payloads import Submission
from gateway.course import Course
from gateway.parts import SplitProgress, over
from milepost.journal import GAVE_UP, PARTS, Note

_WORDS = {
    "raw_input": ("gateway", "keeps the place you gave"),
    "calculated_distance": ("distance", "measures the miles to the office"),
    "user:email": ("store", "writes them down"),
    "email:sent": ("email", "sends you the answer"),
}
"""The stage that publishes on a channel, and what it does. Other channels are shown by their name alone."""


@dataclass(frozen=True, slots=True)
class Step:
    """A channel, reached `at` a time, `hop` milliseconds after the one before. Both are None until it is reached.

    `is_starting`: it is the next, and its stage is starting.
    """

    channel: str
    at: datetime | None
    hop: float | None
    is_next: bool
    is_starting: bool

    @property
    def stage(self) -> str:
        return _WORDS.get(self.channel, ("", ""))[0]

    @property
    def does(self) -> str:
        return _WORDS.get(self.channel, ("", ""))[1]


@dataclass(frozen=True, slots=True)
class Journey:
    """The steps of a submission, and its `state`: underway, done or dead."""

    steps: tuple[Step, ...]
    state: str
    submitted: Mapping[str, Any]
    answer: Mapping[str, Any]
    gave_up: str
    reason: str
    splits: Sequence[SplitProgress] = ()

    @classmethod
    def of(
        cls,
        notes: Mapping[str, Note],
        course: Course,
        starting: Container[str] = (),
        splits: Sequence[SplitProgress] = (),
    ) -> "Journey":
        """Make it from the status of the submission, oldest channel first, and from the expected course.

        `starting`: the channels to come whose stage is starting. `splits`: the stages that have made parts of it.
        """
        dead = next((name for name in notes if name.startswith(GAVE_UP)), "")
        reached = {name: note for name, note in notes.items() if not name.startswith((GAVE_UP, PARTS))}
        is_over = course.is_over(notes, over(splits))
        names = [*reached, *course.ahead(notes)]
        before: datetime | None = None
        steps: list[Step] = []
        for index, name in enumerate(names):
            at = reached[name].at if name in reached else None
            hop = (at - before) / timedelta(milliseconds=1) if at and before else None
            is_next = index == len(reached) and not is_over
            steps.append(Step(name, at, hop, is_next=is_next, is_starting=is_next and name in starting))
            before = at
        return cls(
            steps=tuple(steps),
            state="dead" if dead else "done" if is_over else "underway",
            submitted=_mapping(reached.get(Submission.channel)),
            answer=next((data for data in map(_mapping, reached.values()) if isinstance(data.get("message"), str)), {}),
            gave_up=dead.removeprefix(GAVE_UP),
            reason=str(_mapping(notes.get(dead)).get("reason", "")),
            splits=splits,
        )

    @property
    def whole(self) -> float:
        """Milliseconds from the first channel to the last that was reached."""
        return sum(step.hop or 0 for step in self.steps)

    @property
    def share(self) -> int:
        """Per cent of the steps that were reached."""
        return round(100 * sum(step.at is not None for step in self.steps) / len(self.steps))


def took(milliseconds: float) -> str:
    """Write a duration for people: 7 ms, 1.4 s, 2 min 5 s, 3 h 4 min."""
    if milliseconds < 1000:
        return f"{max(0, milliseconds):.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.1f} s"
    minutes, seconds = divmod(int(milliseconds / 1000), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _mapping(note: Note | None) -> Mapping[str, Any]:
    return note.data if note and isinstance(note.data, dict) else {}
