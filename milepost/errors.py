"""The exceptions of Milepost, as one tree, with the HTTP status that a door or a stage answers.

MilepostError
  EventError           it is no CloudEvent that Milepost takes: 400
    TooLarge           it is larger than an event may be: 413
    Encoded            its body has a Content-Encoding: 415
  Reject               the event is at fault: 422, a dead letter at once
    InvalidPayload     its data is not a payload of the channel
  Defer                this event has to wait, others do not: 409, tried again later
  Unavailable          a thing that the stage needs is away: 503, tried again
  JournalUnavailable   Redis cannot be reached, or is full: the call may be repeated
  BacklogFull          the backlog is at its limit: nothing was written
  TooSlow              a request's body did not arrive in time: 408
  ConfigurationError   a setting or `stages:` in the values is wrong: reported at the start
"""

from collections.abc import Iterable


class MilepostError(Exception):
    """The base of all exceptions that Milepost raises."""


class EventError(MilepostError):
    """It is no CloudEvent that Milepost takes. The text names the attribute and the fault."""


class TooLarge(EventError):
    """An event, as it came in or as Milepost writes it, is larger than an event may be: answered 413."""


class Encoded(EventError):
    """A request's body has a Content-Encoding, such as gzip: answered 415."""


class Reject(MilepostError):
    """The event is at fault and no retry can help: answered 422, a dead letter at once with this text as its reason."""


class InvalidPayload(Reject):
    """The data is not a payload of the channel. `errors` has `field` and `fault` of each error."""

    def __init__(self, errors: Iterable[dict[str, str]]) -> None:
        self.errors = list(errors)
        super().__init__("; ".join(f"{error['field']}: {error['fault']}" for error in self.errors))


class Defer(MilepostError):
    """This event has to wait for a reason of its own: answered 409, tried again after `retry_after` seconds, uncounted.
    Other events go on. At its deadline the event becomes a dead letter with this text as its reason.
    """

    def __init__(self, detail: str, *, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unavailable(MilepostError):
    """A thing that the stage needs is away: answered 503, tried again after `retry_after` seconds."""

    def __init__(self, detail: str, *, retry_after: float = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class JournalUnavailable(MilepostError):
    """Redis cannot be reached, refuses, or is full. If only its reply was lost the command has run. The call may be
    repeated: an event that is published again is recognised. `code` is the code of Redis's refusal, or empty.
    """

    def __init__(self, detail: str, code: str = "") -> None:
        super().__init__(detail)
        self.code = code


class BacklogFull(MilepostError):
    """The backlog is at its limit, or too many channels wait without a stage: nothing was written, and asking later
    may help.
    """


class TooSlow(MilepostError):
    """A request's body did not arrive in time: answered 408, and may be sent again."""


class ConfigurationError(MilepostError):
    """A setting or `stages:` in the values is wrong. The text names it and says what to do."""
