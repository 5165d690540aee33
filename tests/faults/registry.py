"""The faults by name. `@fault("name")` above an `async def f(run: Run) -> None` makes it a row of the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tests.faults.checker import Allowed, Verdict
from tests.faults.power import COMPILER
from tests.faults.stack import Options
from tests.servers import REDIS_SERVER, Redis, Valkey

if TYPE_CHECKING:
    from tests.faults.run import Run

Act = Callable[["Run"], Awaitable[None]]

EVERY_REDIS: dict[str, type[Valkey]] = {"valkey": Valkey, "redis-server": Redis}


WAITING = 20_000
"""Events that wait in a twin of a row that ends a process."""

TWIN_MOST = 1000
"""Submissions that come in beside them."""

AGAIN_WITHIN = 5.0
"""Seconds from the end of a bridge: the claim time of the rows, plus 2."""

TWINS = {
    "bridge: SIGKILL",
    "store: SIGKILL",
    "email: SIGKILL",
    "gateway: SIGKILL",
    "mongo: SIGKILL",
    "one of two bridges: SIGKILL",
    "redis: SIGKILL (valkey)",
    "all of it: SIGKILL",
}
"""Rows whose twin runs unasked. The other twins add little for the time that they take."""


@dataclass(frozen=True)
class Fault:
    """A row: the function that does something to the stack while submissions come in, and the results allowed."""

    name: str
    act: Act
    options: Options
    loaded: bool
    """Whether the load is begun before the function and awaited after it; else the function does that. In a twin the
    same holds for the events that wait.
    """
    resends: bool
    allowed: Allowed
    most: int
    rate: float
    waiting: int = 0
    """Events that wait when the load begins."""
    only_on_request: bool = False
    """Whether the row runs only if it is named, or with --all."""
    no_twin: str = ""
    """Why the row ends a process and has no twin."""
    bounded: bool = False
    """Whether events of an ended bridge must be delivered again within the claim time plus 2 s: a bridge is left that
    serves all stages, the stages answer, and little waits.
    """

    def on(self, server: type[Valkey]) -> Fault:
        """The same on another kind of Redis, unless the row names its own."""
        return (
            self
            if any(f"({kind})" in self.name for kind in EVERY_REDIS) or not issubclass(self.options.redis, Valkey)
            else replace(self, options=replace(self.options, redis=server))
        )

    def twin(self) -> Fault:
        """The same row with events waiting."""
        return replace(
            self,
            name=f"{self.name}, {WAITING:,} events waiting",
            most=TWIN_MOST,
            waiting=WAITING,
            bounded=False,
            only_on_request=self.name not in TWINS,
        )

    @property
    def cannot_run(self) -> str:
        """Why it cannot be run here, if it cannot."""
        if self.options.redis is Redis and not REDIS_SERVER:
            return "no redis-server on PATH"
        return "no C compiler (cc) on PATH" if self.options.power and not COMPILER else ""

    def judge(self, verdict: Verdict, again: float) -> list[str]:
        """Each promise that the row broke. `again`: seconds until the last redelivery, as `recovery` measures them."""
        wrong = verdict.lines()
        if verdict.resent and not self.resends:
            wrong.append(f"resent {verdict.resent}, where neither email nor MongoDB was ended, frozen or silent")
        if self.bounded and again > AGAIN_WITHIN:
            wrong.append(f"delivered again after {again} s, not within the claim time plus 2 s")
        return wrong


FAULTS: dict[str, Fault] = {}


def fault(
    name: str,
    *,
    loaded: bool = True,
    resends: bool = False,
    may_lose: float = 0.0,
    unconfirmed: bool = False,
    most: int = 1_000_000,
    rate: float = 1e6,
    twin: bool = False,
    only_on_request: bool = False,
    no_twin: str = "",
    bounded: bool = False,
    **options: Any,
) -> Callable[[Act], Act]:
    """Make the function below a row. `options` are the stack's; `most` and `rate` cap its load. With `twin` there is a
    second row, with WAITING events waiting.
    """

    def register(act: Act) -> Act:
        stack = Options(**options)
        row = Fault(
            name,
            act,
            stack,
            loaded,
            resends,
            Allowed(may_lose, unconfirmed),
            most,
            rate,
            only_on_request=only_on_request,
            no_twin=no_twin,
            bounded=bounded,
        )
        for one in [row, row.twin()] if twin else [row]:
            if one.name in FAULTS:
                raise ValueError(f"{one.name} is there already")
            FAULTS[one.name] = one
        return act

    return register


def on_every_redis(name: str, **more: Any) -> Callable[[Act], Act]:
    """Make the function below one row for each kind of Redis. The one on Debian's Redis runs on request."""

    def register(act: Act) -> Act:
        for kind, server in EVERY_REDIS.items():
            fault(f"{name} ({kind})", redis=server, only_on_request=server is Redis, **more)(act)
        return act

    return register
