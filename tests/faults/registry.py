"""The faults by name. `@fault("name")` above an `async def f(run: Run) -> None` makes it a row of the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tests.faults.stack import Options
from tests.servers import REDIS_SERVER, Redis, Valkey

if TYPE_CHECKING:
    from tests.faults.checker import Verdict
    from tests.faults.run import Run

Act = Callable[["Run"], Awaitable[None]]

EVERY_REDIS: dict[str, type[Valkey]] = {"valkey": Valkey, "redis-server": Redis}


@dataclass(frozen=True)
class Fault:
    """A row: what is done to the stack while submissions come in, and what may come of it."""

    name: str
    act: Act
    options: Options
    loaded: bool
    """Whether the load is begun before the function and awaited after it; else the function does that."""
    resends: bool
    may_lose: float
    """Seconds before Redis ends within which an accepted submission may be lost."""
    most: int
    rate: float

    def on(self, server: type[Valkey]) -> Fault:
        """The same on another kind of Redis, unless the row names its own."""
        return (
            self
            if any(self.name.endswith(f"({kind})") for kind in EVERY_REDIS)
            else replace(self, options=replace(self.options, redis=server))
        )

    @property
    def cannot_run(self) -> str:
        """Why it cannot be run here, if it cannot."""
        return "no redis-server on PATH" if self.options.redis is Redis and not REDIS_SERVER else ""

    def judge(self, verdict: Verdict) -> list[str]:
        """Each promise that the row broke."""
        wrong = verdict.lines()
        if verdict.resent and not self.resends:
            wrong.append(f"resent {verdict.resent}, where neither email nor MongoDB was ended, frozen or silent")
        return wrong


FAULTS: dict[str, Fault] = {}


def fault(
    name: str,
    *,
    loaded: bool = True,
    resends: bool = False,
    may_lose: float = 0.0,
    most: int = 1_000_000,
    rate: float = 1e6,
    **options: Any,
) -> Callable[[Act], Act]:
    """Make the function below a row. `options` are the stack's; `most` and `rate` cap its load."""

    def register(act: Act) -> Act:
        if name in FAULTS:
            raise ValueError(f"{name} is there already")
        FAULTS[name] = Fault(name, act, Options(**options), loaded, resends, may_lose, most, rate)
        return act

    return register


def on_every_redis(name: str, **more: Any) -> Callable[[Act], Act]:
    """Make the function below one row for each kind of Redis."""

    def register(act: Act) -> Act:
        for kind, server in EVERY_REDIS.items():
            fault(f"{name} ({kind})", redis=server, **more)(act)
        return act

    return register
