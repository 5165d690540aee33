"""The Lua scripts as methods of `Scripts`. Each is one atomic step; many take a batch.

A script's first line is its signature, `-- name(argument, …, rows[field, …])`. When this module is imported it is
compared with the signature of the method. The script gets its arguments as Lua variables of these names: an `int` as a
number, anything else as text, rows as a list of tables. So neither side relies on positions.
"""

import hashlib
import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial, wraps
from importlib.resources import files
from typing import Any, Concatenate, NamedTuple, ParamSpec, cast, get_args, get_origin, get_type_hints

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from milepost.errors import JournalUnavailable
from milepost.journal import keys, refusals
from milepost.journal.shared_connection import SharedConnection

Text = str | bytes | int
P = ParamSpec("P")

_FOLDER = files("milepost.journal") / "lua"
SHARED = keys.for_scripts() + refusals.for_scripts() + (_FOLDER / "common.lua").read_text()
"""Functions and constants for all scripts, in Lua."""

OWN: dict[str, str] = {}
"""Name → the own part of each script, beside SHARED: its arguments, and its file."""

SCRIPTS: dict[str, str] = {}
"""Name → text of each script, as it is sent to Redis."""

_DEFINITION = re.compile(r"^local (?:function )?([\w, ]+).*?(?=^local |\Z)", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"[A-Za-z_]\w*")
_COMMENT = re.compile("--.*")


class EventRow(NamedTuple):
    """An event that is to be published. `source_id`: the end of its key of dedup. `data`: for the status."""

    channel: str
    source_id: str
    id: str
    event: str
    data: str


class AdoptRow(NamedTuple):
    """An event that another program published. `token`: of the leader that received a plain message, else empty."""

    token: str
    channel: str
    source_id: str
    id: str
    event: str
    data: str


class CompleteRow(NamedTuple):
    """An entry that was delivered, and the reply with its channel; empty if there is no reply."""

    stream: str
    entry: str
    id: str
    channel: str
    event: str
    data: str


class AnswerRow(NamedTuple):
    """One of several answers to an event. `data`: for the status."""

    channel: str
    id: str
    event: str
    data: str


class ParkRow(NamedTuple):
    """An entry to park. `since` in milliseconds of Redis TIME, `delay` in milliseconds. An event that was not tried has
    no `reason`.
    """

    stream: str
    entry: str
    channel: str
    event: bytes
    id: str
    since: int
    delay: int
    attempts: int
    crashes: int
    reason: str
    status: str


class BuryRow(NamedTuple):
    """An entry to make a dead letter of."""

    stream: str
    entry: str
    channel: str
    event: bytes
    id: str
    attempts: int
    crashes: int
    reason: str
    status: str


class EntryRow(NamedTuple):
    """One entry of a stream."""

    stream: str
    entry: str


class StreamRow(NamedTuple):
    """One stream."""

    stream: str


class StageRow(NamedTuple):
    """One stage."""

    stage: str


class LetterRow(NamedTuple):
    """One dead letter, by its entry."""

    entry: str


class BeatRow(NamedTuple):
    """A stage, and as JSON: its channels, the rest of its row, and the stages behind it (empty text: none)."""

    stage: str
    consumes: str
    wiring: str
    behind: str


class RouteRow(NamedTuple):
    """A stage, and a channel that it consumes."""

    stage: str
    channel: str


class DepthRow(NamedTuple):
    """A stage, and the channels that it consumes, separated by spaces."""

    stage: str
    channels: str


class UnreadableRow(NamedTuple):
    """A message that is no event."""

    event: bytes
    channel: str
    reason: str


class StatsRow(NamedTuple):
    """Statistics of one stage under one bridge: their key, and JSON of their slots."""

    key: str
    stage: str
    slots: str


Method = Callable[Concatenate["Scripts", P], Coroutine[Any, Any, Any]]
"""A method of `Scripts`."""


def script(method: Method[P]) -> Method[P]:
    """Return a method that runs lua/<its name>.lua. Raises TypeError if the signatures differ.

    The arguments are given by name. The method raises JournalUnavailable when Redis cannot be reached or refuses.
    """
    name = method.__name__
    body = (_FOLDER / f"{name}.lua").read_text()
    hints = get_type_hints(method)
    plain, rows = [], None
    for parameter in list(inspect.signature(method).parameters)[1:]:
        if get_origin(hints[parameter]) is None:
            plain.append(parameter)
        else:
            rows = parameter, get_args(hints[parameter])[0]
    declared = [*plain, f"{rows[0]}[{', '.join(rows[1]._fields)}]"] if rows else plain
    signature = f"-- {name}({', '.join(declared)})"
    if body.partition("\n")[0] != signature:
        raise TypeError(f"lua/{name}.lua begins with {body.partition(chr(10))[0]!r}, not {signature!r}")
    OWN[name] = _arguments(plain, rows, hints) + body
    text = SCRIPTS[name] = whole_text(OWN[name])
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    @wraps(method)
    async def run(self: "Scripts", *_: P.args, **given: P.kwargs) -> Any:
        arguments = [given[argument] for argument in plain]
        if rows:
            for row in given[rows[0]]:  # type: ignore[attr-defined]
                arguments += row
        return await self.run(digest, text, arguments)  # type: ignore[arg-type]

    return cast("Method[P]", run)


def whole_text(own: str, shared: str = SHARED) -> str:
    """Put before `own` the definitions of `shared` that it uses.

    Lua makes each function anew at each run of a script. To make all of them takes a fifth of a run for one event.
    """
    shared, used = _COMMENT.sub("", shared), set(_WORD.findall(_COMMENT.sub("", own)))
    needed = []
    for found in reversed(list(_DEFINITION.finditer(shared))):  # a definition uses those before it
        if used.intersection(_WORD.findall(found[1])):
            needed.append(found[0])
            used.update(_WORD.findall(found[0]))
    return "".join(reversed(needed)) + own


def _arguments(plain: Sequence[str], rows: tuple[str, Any] | None, hints: dict[str, Any]) -> str:
    """Return Lua source that gives a script its arguments by name."""

    def value(index: str, kind: Any) -> str:
        return f"tonumber(ARGV[{index}])" if kind is int else f"ARGV[{index}]"

    lines = [f"local {name} = {value(str(i), hints[name])}" for i, name in enumerate(plain, 1)]
    if rows:
        name, kind = rows
        fields = get_type_hints(kind)
        made = ", ".join(f"{field} = {value(f'i + {i}', fields[field])}" for i, field in enumerate(kind._fields))
        lines.append(f"local {name} = {{}}")
        lines.append(f"for i = {len(plain) + 1}, #ARGV, {len(kind._fields)} do {name}[#{name} + 1] = {{ {made} }} end")
    return "\n".join(lines) + "\n"


class Scripts:
    """Runs the scripts on one connection to the server of `redis`. `redis` itself is for other commands.

    Each method is described at the top of its Lua file. Durations and times are in milliseconds. With `replicas` each
    returns once so many replicas have its writes.
    """

    def __init__(self, redis: Redis, connection: SharedConnection | None = None, *, replicas: int = 0) -> None:
        self.redis = redis
        self.connection = connection or SharedConnection(redis)
        self._call = partial(self.connection.call_replicated, replicas) if replicas else self.connection.call

    async def run(self, digest: str, text: str, arguments: Iterable[Text]) -> Any:
        """Run one script. Raises JournalUnavailable."""
        try:
            try:
                return await self._call("EVALSHA", digest, 1, keys.JOURNALS, *arguments)
            except NoScriptError:
                return await self._call("EVAL", text, 1, keys.JOURNALS, *arguments)
        except (RedisError, OSError) as fault:
            raise unavailable(fault) from fault

    async def call(self, *command: Text) -> Any:
        """Run one command on the connection of the scripts. It must return no list of texts of other programs: one that
        begins with `error MOVED` would be taken for a refusal (`wrong_server`).

        Raises JournalUnavailable.
        """
        try:
            return await self.connection.call(*command)
        except (RedisError, OSError) as fault:
            raise unavailable(fault) from fault

    async def close(self) -> None:
        """Close every connection."""
        await self.connection.close()
        await self.redis.aclose()

    # doors

    @script
    async def publish(
        self,
        *,
        limit: int,
        fresh: int,
        most_unconsumed: int,
        trusted: int,
        dedup: int,
        events: Sequence[EventRow],
    ) -> Any: ...

    @script
    async def backlog(self, *, fresh: int) -> Any: ...

    @script
    async def adopt(self, *, dedup: int, messages: Sequence[AdoptRow]) -> Any: ...

    @script
    async def unreadable(self, *, most: int, messages: Sequence[UnreadableRow]) -> Any: ...

    @script
    async def announce(self, *, dedup: int, channel: str, source_id: str, id: str, event: str, data: str) -> Any: ...

    @script
    async def bury_given_up(
        self,
        *,
        stage: str,
        channel: str,
        event: str,
        id: str,
        reason: str,
        status: str,
        attempts: int,
    ) -> Any: ...

    # a stage's consumers

    @script
    async def ensure(self, *, stage: str, broker: str, channel: str) -> Any: ...

    @script
    async def switch(self, *, fresh: int, broker: str, routes: Sequence[RouteRow]) -> Any: ...

    @script
    async def take_over(
        self, *, stage: str, consumer: str, most: int, claim: int, streams: Sequence[StreamRow]
    ) -> Any: ...

    @script
    async def read_ordered(
        self, *, stage: str, consumer: str, channel: str, field: str, most: int, least: int
    ) -> Any: ...

    @script
    async def complete(self, *, stage: str, emits: int, completions: Sequence[CompleteRow]) -> Any: ...

    @script
    async def split(self, *, stage: str, stream: str, entry: str, id: str, answers: Sequence[AnswerRow]) -> Any: ...

    @script
    async def park(self, *, stage: str, deadline: int, deliveries: Sequence[ParkRow]) -> Any: ...

    @script
    async def bury(self, *, stage: str, deliveries: Sequence[BuryRow]) -> Any: ...

    @script
    async def renew(self, *, stage: str, consumer: str, entries: Sequence[EntryRow]) -> Any: ...

    @script
    async def hand_back(
        self, *, stage: str, consumer: str, claim: int, most: int, streams: Sequence[StreamRow]
    ) -> Any: ...

    @script
    async def reap(self, *, stage: str, consumer: str, idle: int, streams: Sequence[StreamRow]) -> Any: ...

    # maintenance

    @script
    async def beat(self, *, fresh: int, broker: str, routes: Sequence[BeatRow]) -> Any: ...

    @script
    async def retry_due(self, *, most: int, stages: Sequence[StageRow]) -> Any: ...

    @script
    async def trim(self, *, channel: str, fresh: int, limit: int) -> Any: ...

    @script
    async def unblock_lost(self, *, stage: str, channel: str, start: str, most: int) -> Any: ...

    @script
    async def keep_statuses(self, *, stream: str, start: str, most: int, age: int) -> Any: ...

    @script
    async def lease(self, *, token: str, ttl: int, known: str) -> Any: ...

    @script
    async def release(self, *, token: str, handover: int) -> Any: ...

    @script
    async def stats(self, *, kept: int, stages: Sequence[StatsRow]) -> Any: ...

    # operators

    @script
    async def depth(self, *, stages: Sequence[DepthRow]) -> Any: ...

    @script
    async def left_behind(self) -> Any: ...

    @script
    async def pause(self, *, stage: str) -> Any: ...

    @script
    async def replay(self, *, stage: str, broker: str, fresh: int, letters: Sequence[LetterRow]) -> Any: ...

    @script
    async def forget(self, *, stage: str, channel: str, fresh: int) -> Any: ...

    @script
    async def forget_journal(self, *, channel: str) -> Any: ...


def size_of(row: Sequence[str]) -> int:
    """Return the bytes of a row of texts. Raises UnicodeEncodeError for a text that UTF-8 cannot hold."""
    return len("".join(row).encode())


def checked(answers: Sequence[bytes]) -> list[str]:
    """Return a batch's answers as text. Raises JournalUnavailable if one of them is an error."""
    texts = [answer.decode() for answer in answers]
    for text in texts:
        if text.startswith("error "):
            raise unavailable(RedisError(text.removeprefix("error ")))
    return texts


async def ask(call: Awaitable[Any]) -> Any:
    """Await one command that is no script. Raises JournalUnavailable."""
    try:
        return await call
    except (RedisError, OSError) as fault:
        raise unavailable(fault) from fault


async def ask_list(call: Awaitable[Any]) -> Sequence[Any]:
    """Await a command whose reply is a list: an empty one if the key or the group is absent, or of another type.

    Raises JournalUnavailable.
    """
    try:
        found: Sequence[Any] = await ask(call)
    except JournalUnavailable as fault:
        if fault.code not in {"WRONGTYPE", "NOGROUP"} and "no such key" not in str(fault):
            raise
        return ()
    return found


def unavailable(fault: Exception) -> JournalUnavailable:
    """The fault of a Redis call in our own words; redis-py names hosts, never passwords."""
    code = refusals.code_of(fault)
    text = "Redis is full" if code == refusals.FULL else f"Redis: {str(fault) or type(fault).__name__}"
    return JournalUnavailable(text, code)
