"""Refused requests. The response is a problem (RFC 9457), or a page for clients that prefer HTML."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from milepost.errors import BacklogFull, JournalUnavailable
from milepost.events.event import media_type

JSON = "application/json"
URLENCODED = "application/x-www-form-urlencoded"
FORMS = frozenset({URLENCODED, "multipart/form-data"})

MOST_FAULTS = 20
LONGEST_NAME = 64

_PHRASES = {413: "Content Too Large", 422: "Unprocessable Content"}
"""Names of RFC 9110, where Python 3.11 has older ones."""

_VERBS = ("must ", "cannot ", "contains ", "is ")
_SUBJECT = re.compile(rf"^(?:An|The) email address (?={'|'.join(_VERBS)})")
"""The subject of email-validator's messages, which the field's name replaces."""

Typed = Mapping[str, str | UploadFile]
"""The fields of a form by name, as they were typed."""

Faults = Sequence[Mapping[str, str]]
"""For each faulty field its name as `field`, and `fault`, which reads on from the name."""


class Refusal(HTTPException):
    """A request that is refused. `detail` is for its sender, `retry_after` in seconds. `typed` has the fields of a
    form, for the page to keep.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        faults: Faults = (),
        retry_after: int | None = None,
        typed: Typed | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.title = _PHRASES.get(status) or HTTPStatus(status).phrase
        self.faults = faults[:MOST_FAULTS]
        self.retry_after = retry_after
        self.typed = typed


def unavailable(fault: JournalUnavailable | BacklogFull) -> Refusal:
    """Refuse because the journal takes nothing. The cause is for the log, not for the visitor."""
    if isinstance(fault, BacklogFull):
        return Refusal(503, "Too much is waiting to be worked on. Nothing was accepted; try again.", retry_after=10)
    return journal_away()


def journal_away() -> Refusal:
    """Refuse because Redis does not answer. It may have journaled the event, if only its reply was lost."""
    return Refusal(
        503,
        "The journal does not answer. Try again: two tries with the same Idempotency-Key count once.",
        retry_after=2,
    )


def unknown_submission() -> Refusal:
    """Refuse because there is no such submission."""
    return Refusal(404, "No submission has this id, or it was forgotten by now.")


def other_content_type() -> Refusal:
    """Refuse a body that is neither JSON nor a form."""
    return Refusal(415, f"Send {JSON}, or a form: {' or '.join(sorted(FORMS))}.")


def invalid(faults: Faults, *, typed: Typed | None = None) -> Refusal:
    """Refuse because fields are at fault."""
    detail = "; ".join(f"{fault['field']} {fault['fault']}" for fault in faults[:MOST_FAULTS])
    return Refusal(422, detail, faults=faults, typed=typed)


def fault(field: object, text: str) -> dict[str, str]:
    """Describe the fault of one field. Its name may be the client's own, so it is made short and printable."""
    name = str(field).encode("ascii", "backslashreplace").decode() or '""'
    return {"field": name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…", "fault": text}


def faults(errors: Sequence[Any], *, within: int = 0) -> list[dict[str, str]]:
    """Describe pydantic's errors. The first `within` parts of their locations are not names of fields."""
    return [fault(".".join(map(str, found["loc"][within:])) or "body", _words(found)) for found in errors]


def _words(found: Mapping[str, Any]) -> str:
    """Describe one error in words that follow the field's name: "lat must be at most 90"."""
    context = found.get("ctx", {})
    match found["type"]:
        case "missing":
            return "is missing"
        case "string_type":
            return "must be a string"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}"
        case "less_than_equal":
            return f"must be at most {context['le']:g}"
        case "model_attributes_type":
            return "must be a JSON object"
        case "extra_forbidden":
            return "is not a field of a submission"
        case _:
            text = _SUBJECT.sub("", found["msg"].removeprefix("Value error, ").rstrip("."))
            return text if text.startswith(_VERBS) else f"is not usable: {text[:1].lower()}{text[1:]}"


def wants_page(headers: Mapping[str, str]) -> bool:
    """Whether to answer with HTML: to a client that prefers it, and to a form whose Accept does not name JSON."""
    media = media_type(headers.get("content-type", ""))
    if media == JSON:
        return False
    accept = headers.get("accept", "")
    html, json = _quality(accept, "text/html"), _quality(accept, JSON)
    return html > json if html != json else media in FORMS


def _quality(accept: str, media: str) -> float:
    """Return the quality of exactly this type (RFC 9110, section 12.5.1), or 0 if it is not named."""
    for part in accept.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        if name == media:
            return next((_number(word[2:]) for word in parameters if word.startswith("q=")), 1.0)
    return 0.0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
