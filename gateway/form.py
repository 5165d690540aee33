"""A submitted form, in either of the two ways a browser writes it."""

from collections.abc import Sequence
from urllib.parse import parse_qsl

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gateway.refusal import URLENCODED, Faults, Refusal, fault, media_type

MOST_PARTS = 32
"""Fields, and files, that are read of a form before it is called broken."""

Field = tuple[str, str | UploadFile]


async def read_form(request: Request) -> tuple[dict[str, str], Faults]:
    """What was typed, blanks around it gone, and what is wrong with the form itself. Raises Refusal: broken."""
    body = await request.body()
    fields = _urlencoded(body) if media_type(request.headers) == URLENCODED else await _parts(request, body)
    typed: dict[str, str] = {}
    wrong: list[dict[str, str]] = []
    for name, value in fields:
        if not isinstance(value, str):
            wrong.append(fault(name, "must be text, not a file"))
        elif name in typed:
            wrong.append(fault(name, "must be given once"))
        else:
            # Blanks and no more: a line break in an address is not an accident to be tidied away.
            typed[name] = value.strip(" \t")
    return typed, wrong


def _urlencoded(body: bytes) -> Sequence[Field]:
    """Bytes that are not UTF-8 are refused: read as something else they would be other letters, and another address."""
    try:
        text = body.decode("ascii")
    except UnicodeDecodeError:
        raise Refusal(400, "The form cannot be read: letters beyond ASCII must be percent-encoded.") from None
    try:
        fields = parse_qsl(text, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise Refusal(400, "The form cannot be read: its text is not UTF-8.") from None
    if len(fields) > MOST_PARTS:
        raise Refusal(400, f"The form cannot be read: it has more than {MOST_PARTS} fields.")
    return fields


async def _parts(request: Request, body: bytes) -> Sequence[Field]:
    try:
        body.decode()
    except UnicodeDecodeError:
        raise Refusal(400, "The form cannot be read: its text is not UTF-8.") from None
    try:
        async with request.form(max_files=MOST_PARTS, max_fields=MOST_PARTS) as form:
            return [
                (name, value.encode(errors="replace").decode() if isinstance(value, str) else value)
                for name, value in form.multi_items()
            ]
    except HTTPException as cause:
        raise Refusal(400, f"The form cannot be read: {cause.detail}") from None
    except UnicodeError:
        raise Refusal(400, "The form cannot be read: its text is not in the charset it names.") from None
