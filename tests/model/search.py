"""An exhaustive search over the states of a world, breadth first, so that a violation has its shortest path."""

import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from tests.model.world import OF_ENTRIES, Move, State, ViolationError, World

FAULTS = {*OF_ENTRIES, "crash", "publish_again"}
"""Moves that are no progress: liveness holds without them."""


@dataclass
class Result:
    """How large the search was."""

    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    complete: bool = True
    moves: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        kind = "complete" if self.complete else "cut off"
        return (
            f"{kind}: {self.states:,} states, {self.transitions:,} transitions, depth {self.depth}, "
            f"{self.seconds:.0f} s"
        )


class FoundError(AssertionError):
    """A violation, with the moves that lead to it."""

    def __init__(self, fault: str, path: tuple[Move, ...]) -> None:
        steps = "\n".join(f"    {move!r}," for move in path)
        super().__init__(f"{fault}\n\nreplay it with tests.model.search.replay(world, [\n{steps}\n])")
        self.path = path


async def search(world: World, *, seconds: float = 1e9) -> Result:
    """Visit every state. Raises FoundError for the first violation, or for a state that cannot reach the end."""
    began = time.monotonic()
    result = Result()
    first = await world.start()
    key, finished = await world.look(first)
    depth: dict[Any, int] = {key: 0}
    paths: dict[Any, tuple[Any, Move] | None] = {key: None}
    ends = {key} if finished else set()
    back: dict[Any, set[Any]] = {}
    queue: deque[tuple[State, Any]] = deque([(first, key)])
    while queue:
        state, key = queue.popleft()
        for move in world.moves(state):
            await world.restore(state)
            try:
                following = await world.apply(state, move)
                found, finished = await world.look(following)
            except ViolationError as fault:
                raise FoundError(str(fault), (*path_to(paths, key), move)) from None
            result.transitions += 1
            result.moves[move[0]] = result.moves.get(move[0], 0) + 1
            if move[0] not in FAULTS:
                back.setdefault(found, set()).add(key)
            if found not in depth:
                depth[found] = depth[key] + 1
                paths[found] = key, move
                if finished:
                    ends.add(found)
                queue.append((replace(following, dump=await world.dump()), found))
        if time.monotonic() - began > seconds:
            result.complete = False
            break
    result.states, result.depth = len(depth), max(depth.values())
    result.seconds = time.monotonic() - began
    if result.complete and (stuck := set(depth) - reaching(ends, back)):
        worst = min(stuck, key=depth.__getitem__)
        raise FoundError(f"{len(stuck)} states cannot reach the end without a further fault", path_to(paths, worst))
    return result


def reaching(ends: set[Any], back: dict[Any, set[Any]]) -> set[Any]:
    """Return the states from which progress leads to one of `ends`."""
    found, queue = set(ends), deque(ends)
    while queue:
        for earlier in back.get(queue.popleft(), ()):
            if earlier not in found:
                found.add(earlier)
                queue.append(earlier)
    return found


def path_to(paths: dict[Any, tuple[Any, Move] | None], key: Any) -> tuple[Move, ...]:
    moves: list[Move] = []
    while step := paths[key]:
        key, move = step
        moves.append(move)
    return tuple(reversed(moves))


async def replay(world: World, path: list[Move]) -> State:
    """Make these moves from the start, with every invariant looked at after each."""
    state = await world.start()
    for move in path:
        state = await world.apply(state, move)
        await world.look(state)
        state = replace(state, dump=await world.dump())
    return state
