"""Whether a command printed what the document shows, but for what differs each time: ids, times, the machine."""

import re

_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ENTRY = r"\b1\d{12}-\d+\b"
NAMES = re.compile(f"{_ID}|{_ENTRY}")
"""What a later command may name: an event's id, an entry of a stream."""

_VOLATILE = (
    (re.compile(_ID), "<id>"),
    (re.compile(_ENTRY), "<entry>"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|s)\b( \(\d+:\d\d:\d\d\))?"), "<duration>"),  # pytest adds (0:01:37) to 97.92s
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?|\b\d\d:\d\d:\d\d(\.\d+)?"), "<time>"),
    (re.compile(r"\d+ (passed|deselected|warnings?)"), r"<n> \1"),
)


def same(expected: str, printed: str) -> bool:
    """`…` in what is expected stands for anything, spacing for any spacing."""
    pattern = re.escape(_steady(expected)).replace("…", ".*")
    return re.fullmatch(pattern, _steady(printed), re.DOTALL) is not None


def same_response(expected: str, printed: str) -> bool:
    """The same of `curl -i`: the status, the headers that are shown, in any order, and the body if one is shown."""
    head, _, body = expected.partition("\n\n")
    found, _, rest = printed.replace("\r", "").partition("\n\n")
    status, *headers = head.splitlines()
    there = {line.lower() for line in found.splitlines()}
    return (
        found.startswith(status)
        and all(header.lower() in there for header in headers)
        and (not body or same(body, rest))
    )


def renamed(expected: str, printed: str) -> dict[str, str]:
    """The ids of the document → those of this run."""
    shown, real = NAMES.findall(expected), NAMES.findall(printed)
    return dict(zip(shown, real, strict=False)) if len(shown) == len(real) else {}


def _steady(text: str) -> str:
    for pattern, name in _VOLATILE:
        text = pattern.sub(name, text)
    return re.sub(r"\s+", "", text)
