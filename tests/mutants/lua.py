"""Mutants of a Lua source: copies that each differ from it in one call, condition or constant."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"(?P<comment>--[^\n]*)|(?P<text>'(?:\\.|[^'\\])*')|(?P<number>\d+)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<sign>\.\.\.|\.\.|==|~=|<=|>=|[-+*/%#<>=(){}\[\];:,.])"
)
_OPENS, _CLOSES = {"(", "{", "[", "function", "if", "for", "while"}, {")", "}", "]", "end"}
_BINARY = {"+", "-", "*", "/", "%", "..", "==", "~=", "<", ">", "<=", ">=", "and", "or", ",", "=", "(", "{", "[", "."}
_STARTS = {"then", "do", "else", "repeat"}
_CONDITIONAL = {"if", "elseif", "while", "until"}
_WORDS = {*_STARTS, *_CONDITIONAL, "for", "in", "local", "return", "end", "break", "function", "and", "or", "not"}

OTHER = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "~=",
    "~=": "==",
    "and": "or",
    "or": "and",
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "true": "false",
    "false": "true",
}
"""What replaces a sign or a word."""

OPTIONS = {"NX", "XX", "PX", "KEEPTTL", "JUSTID", "MKSTREAM"}
"""Options of Redis commands that are left out; PX together with its time."""

LARGE = 1000
"""Constants from here on are doubled: one millisecond or byte more is no other behaviour."""


@dataclass(frozen=True)
class Token:
    """One token, and where it lies in the source."""

    kind: str
    text: str
    start: int
    end: int
    line: int


@dataclass(frozen=True)
class Mutant:
    """A changed source. `change` names the line and the new text."""

    line: int
    change: str
    source: str


def tokens_of(source: str) -> list[Token]:
    """Return the tokens of a source, without comments."""
    found = []
    for match in _TOKEN.finditer(source):
        kind = str(match.lastgroup)
        if kind != "comment":
            line = source.count("\n", 0, match.start()) + 1
            found.append(Token(kind, match.group(), match.start(), match.end(), line))
    return found


def marked_lines(source: str) -> list[int]:
    """Return the lines on which a statement begins."""
    tokens = tokens_of(source)
    first = {token.line: index for index, token in reversed(list(enumerate(tokens)))}
    begin = {"local", "if", "for", "while", "repeat", "return"}
    return [line for line, at in sorted(first.items()) if tokens[at].text in begin or _begins_statement(tokens, at)]


def marked_line_of(source: str, line: int) -> int:
    """Return the line with the beginning of the statement that a line is part of. `elseif` is part of its `if`."""
    lines = source.splitlines()
    if lines[line - 1].lstrip().startswith("elseif "):
        indent = lines[line - 1].partition("elseif ")[0]
        line = next(at for at in range(line - 1, 0, -1) if lines[at - 1].startswith(f"{indent}if "))
    return max((marked for marked in marked_lines(source) if marked <= line), default=0)


def traced(source: str, name: str) -> str:
    """Return a source that calls `trace('NAME:LINE')` before each line on which a statement begins."""
    lines = source.splitlines()
    for line in marked_lines(source):
        lines[line - 1] = f"trace('{name}:{line}') {lines[line - 1]}"
    return "\n".join(lines) + "\n"


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a source, from its first line to its last. No two have the same `change`."""
    tokens = tokens_of(source)
    seen: Counter[str] = Counter()
    for index, token in enumerate(tokens):
        for start, end, text, change in _changes(tokens, index, source):
            seen[change] += 1
            number = f" ({seen[change]})" if seen[change] > 1 else ""
            yield Mutant(token.line, change + number, source[:start] + text + source[end:])


def _changes(tokens: Sequence[Token], index: int, source: str) -> Iterator[tuple[int, int, str, str]]:
    """Yield the changes at one token: start and end of the replaced text, the replacement, and what to call it."""
    token = tokens[index]
    before = tokens[index - 1].text if index else ""
    if _begins_statement(tokens, index):
        last = tokens[_end_of_statement(tokens, index)]
        yield token.start, last.end, "", f"deleted: {_short(source[token.start : last.end])}"
    if token.text in _CONDITIONAL:
        start, end = tokens[index + 1].start, tokens[_end_of_condition(tokens, index)].end
        yield start, end, f"not ({source[start:end]})", f"negated: {_short(source[start:end])}"
    elif token.text == "not" and before not in _CONDITIONAL:
        yield token.start, token.end, "", f"deleted: not in {_line(source, token)}"
    elif token.text in OTHER and not _is_whole_condition(tokens, index) and not _is_sign(tokens, index):
        yield token.start, token.end, OTHER[token.text], f"{token.text} → {OTHER[token.text]} in {_line(source, token)}"
    elif token.kind == "number":
        number = int(token.text)
        other = number * 2 if number >= LARGE else number + 1
        yield token.start, token.end, str(other), f"{number} → {other} in {_line(source, token)}"
    elif token.text == "'('":
        yield token.start, token.end, "''", f"'(' → '' in {_line(source, token)}"
    elif token.text.strip("'") in OPTIONS and before == ",":
        last = tokens[_end_of_argument(tokens, index + 1) if token.text == "'PX'" else index]
        yield tokens[index - 1].start, last.end, "", f"deleted: {token.text} in {_line(source, token)}"


def _begins_statement(tokens: Sequence[Token], index: int) -> bool:
    """Whether a call or an assignment begins here. Statements begin a line, or follow a word such as `then`."""
    token = tokens[index]
    if token.kind != "name" or token.text in _WORDS:
        return False
    earlier = tokens[index - 1] if index else None
    return earlier is None or earlier.text in _STARTS or (earlier.line < token.line and earlier.text not in _BINARY)


def _end_of_statement(tokens: Sequence[Token], index: int) -> int:
    depth = 0
    for position in range(index, len(tokens) - 1):
        token, following = tokens[position], tokens[position + 1]
        depth += (token.text in _OPENS) - (token.text in _CLOSES)
        on_next_line = following.line > token.line and token.text not in _BINARY and following.text not in _BINARY
        if depth == 0 and (on_next_line or following.text in {"end", "else", "elseif", "until"}):
            return position
    return len(tokens) - 1


def _end_of_condition(tokens: Sequence[Token], index: int) -> int:
    position = index + 1
    while tokens[position + 1].text not in {"then", "do"}:
        if tokens[index].text == "until" and tokens[position + 1].line > tokens[position].line:
            break
        position += 1
    return position


def _end_of_argument(tokens: Sequence[Token], index: int) -> int:
    """Return the last token of the argument after this comma."""
    depth, position = 0, index
    while depth > 0 or tokens[position + 1].text not in {",", ")"}:
        position += 1
        depth += (tokens[position].text in _OPENS) - (tokens[position].text in _CLOSES)
    return position


def _is_whole_condition(tokens: Sequence[Token], index: int) -> bool:
    """Whether `==` or `~=` is all of a condition: negating the condition gives the same mutant."""
    if tokens[index].text not in {"==", "~="}:
        return False
    first = index
    while first and tokens[first].text not in {*_WORDS, "="}:
        first -= 1
    if tokens[first].text not in _CONDITIONAL:
        return False
    return not any(token.text in {"and", "or"} for token in tokens[first : _end_of_condition(tokens, first)])


def _is_sign(tokens: Sequence[Token], index: int) -> bool:
    """Whether this is the minus of a negative number."""
    earlier = tokens[index - 1]
    return tokens[index].text == "-" and (earlier.text in _BINARY or earlier.text in _WORDS)


def _short(text: str) -> str:
    return re.sub(r"\s+", " ", text)[:100]


def _line(source: str, token: Token) -> str:
    return _short(source.splitlines()[token.line - 1].strip())
