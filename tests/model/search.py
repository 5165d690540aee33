"""An exhaustive search over the states of a world, breadth first, so that a violation has its shortest path.

1. A state is what Redis holds and what the bridges know (world.py). The search begins with an empty Redis.
2. From each state every move is made that the world allows there: one step of a bridge, a producer or an operator.
3. Before each move the state is restored into a real Valkey; the move runs the shipped scripts, and the new state is
   read back.
4. States that differ only in times, ids or in which bridge is which are one state, so each is visited once.
5. In every new state the invariants of the world are checked, and after every move its announcements. A broken one ends
   the search.
6. The path to it, the shortest, is printed as a Python program that makes the same moves.
7. In some worlds each move is also tried on servers that refuse: full, read-only, without a right. It must then change
   nothing and say so, or be done whole.
8. Moves without a fault are noted backwards. When all states are known, each must reach an end by such moves.
9. No such move may lead away from an end, where everything is finished.
10. The search is complete when no state is left, and cut off when its time is over.
"""

import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.model.world import Move, State, ViolationError, World
from tests.servers import Valkey


@dataclass
class Result:
    """How large the search was."""

    states: int = 0
    transitions: int = 0
    refusals: int = 0
    depth: int = 0
    seconds: float = 0.0
    complete: bool = True
    moves: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Result") -> None:
        """Add the size of another search. `depth` becomes the larger one."""
        self.states += other.states
        self.transitions += other.transitions
        self.refusals += other.refusals
        self.depth = max(self.depth, other.depth)
        self.seconds += other.seconds

    def __str__(self) -> str:
        kind = "complete" if self.complete else "cut off"
        refused = f", {self.refusals:,} more on servers that refuse" if self.refusals else ""
        return (
            f"{kind}: {self.states:,} states, {self.transitions:,} transitions{refused}, depth {self.depth}, "
            f"{self.seconds:.0f} s"
        )


class FoundError(AssertionError):
    """A violation. `path`: the moves that lead to it; `script`: a Python program that makes them."""

    def __init__(self, fault: str, world: World[Any], path: Sequence[Move]) -> None:
        self.path = list(path)
        self.script = script_of(world, path)
        super().__init__(f"{fault}\n\nThis program, in the project's folder, makes the same moves:\n\n{self.script}")


def script_of(world: World[Any], path: Sequence[Move]) -> str:
    """Return a Python program that makes these moves from the first state of a world."""
    steps = "\n".join(f"    {move!r}," for move in path)
    return f"""import asyncio

from {type(world).__module__} import *
from tests.model.search import replay_on_valkey

PATH = [
{steps}
]


def world(url):
    return {world!r}


if __name__ == "__main__":
    asyncio.run(replay_on_valkey(world, PATH))
"""


async def search(world: World[Any], *, seconds: float = 1e9) -> Result:
    """Visit every state.

    Raises FoundError for a state that breaks an invariant, for one that cannot reach the end by moves of PROGRESS, and
    for an end from which such a move leads away.
    """
    began = time.monotonic()
    result = Result()
    first = await world.start()
    view = await world.view()
    key, finished = world.check(first.local, view)
    depth: dict[Any, int] = {key: 0}
    paths: dict[Any, tuple[Any, Move] | None] = {key: None}
    ends = {key} if finished else set()
    back: dict[Any, set[Any]] = {}
    queue: deque[tuple[State[Any], Any, Any]] = deque([(first, view, key)])
    while queue:
        state, view, key = queue.popleft()
        for move in world.moves(state.local, view):
            try:
                local = await world.apply(state, move)
                found_view = await world.view()
                found, finished = world.check(local, found_view)
                world.check_announced(move, view, found_view)
                if found not in depth:
                    await world.check_counts(local, found_view)
                if world.refusals:
                    result.refusals += await world.check_refusals(state, move, found)
            except ViolationError as fault:
                raise FoundError(str(fault), world, (*path_to(paths, key), move)) from None
            if move[0] in world.PROGRESS and key in ends and not finished:
                raise FoundError("a move without a fault leads away from the end", world, (*path_to(paths, key), move))
            result.transitions += 1
            result.moves[move[0]] = result.moves.get(move[0], 0) + 1
            if move[0] in world.PROGRESS:
                back.setdefault(found, set()).add(key)
            if found not in depth:
                depth[found] = depth[key] + 1
                paths[found] = key, move
                if finished:
                    ends.add(found)
                queue.append((State(found_view.snapshot, local), found_view, found))
        if time.monotonic() - began > seconds:
            result.complete = False
            break
    result.states, result.depth = len(depth), max(depth.values())
    result.seconds = time.monotonic() - began
    if result.complete and (stuck := set(depth) - reaching(ends, back)):
        worst = min(stuck, key=depth.__getitem__)
        fault = f"{len(stuck)} states cannot reach the end without a further fault"
        raise FoundError(fault, world, path_to(paths, worst))
    return result


def reaching(ends: set[Any], back: Mapping[Any, set[Any]]) -> set[Any]:
    """Return the states from which progress leads to one of `ends`."""
    found, queue = set(ends), deque(ends)
    while queue:
        for earlier in back.get(queue.popleft(), ()):
            if earlier not in found:
                found.add(earlier)
                queue.append(earlier)
    return found


def path_to(paths: Mapping[Any, tuple[Any, Move] | None], key: Any) -> tuple[Move, ...]:
    moves: list[Move] = []
    while step := paths[key]:
        key, move = step
        moves.append(move)
    return tuple(reversed(moves))


async def replay(world: World[Any], path: Sequence[Move], *, tell: Callable[..., None] = lambda *_: None) -> None:
    """Make these moves from the start. Raises ViolationError as soon as an invariant does not hold.

    `tell` gets each move, and the state outside Redis after it.
    """
    state = await world.start()
    before = await world.view()
    tell("start", state.local)
    for move in path:
        local = await world.apply(state, move)
        tell(move, local)
        view = await world.view()
        key, _ = world.check(local, view)
        world.check_announced(move, before, view)
        await world.check_counts(local, view)
        if world.refusals:
            await world.check_refusals(state, move, key)
        state, before = State(view.snapshot, local), view


async def replay_on_valkey(make: Callable[[str], World[Any]], path: Sequence[Move]) -> None:
    """Make these moves on a server of their own, and print them."""
    with tempfile.TemporaryDirectory() as folder, Valkey(Path(folder), options={"appendfsync": "no"}) as server:
        world = make(server.url)
        try:
            await replay(world, path, tell=print)
        finally:
            await world.close()
