"""The worlds that are searched: small ones with every `make test`, the whole with `make model`."""

from collections.abc import Callable
from typing import Any

from tests.model import adoption, broker, delivery, switching
from tests.model.adoption import AdoptionWorld
from tests.model.broker import BrokerWorld
from tests.model.delivery import OUT, DeliveryWorld
from tests.model.switching import SwitchWorld
from tests.model.world import World

Make = Callable[[str], World[Any]]

LINE: dict[str, str | None] = {"a": OUT}
BRANCHES: dict[str, str | None] = {"a": OUT, "b": None}
SILENT: dict[str, str | None] = {"a": None}
BOTH_SILENT: dict[str, str | None] = {"a": None, "b": None}
BOTH_EMIT: dict[str, str | None] = {"a": OUT, "b": "aside"}


def deliveries(stages: dict[str, str | None], **bounds: Any) -> Make:
    return lambda url: DeliveryWorld(url, delivery.Bounds(**bounds), stages)


def brokered(**bounds: Any) -> Make:
    return lambda url: BrokerWorld(url, broker.Bounds(**bounds))


def ordered(of: str, **bounds: Any) -> Make:
    """One letter is the key of one event."""
    return deliveries(LINE, events=len(of), keys=tuple(of), **bounds)


def adoptions(*messages: int, **bounds: Any) -> Make:
    return lambda url: AdoptionWorld(url, adoption.Bounds(messages, **bounds))


def switches(*stages: str, **bounds: Any) -> Make:
    return lambda url: SwitchWorld(url, switching.Bounds(**bounds), stages)


SMALL: dict[str, Make] = {
    "a crash, a retry": deliveries(LINE, crashes=1, parks=1),
    "a dead letter, a replay, a lost answer": deliveries(LINE, burials=1, replays=1, lost_answers=1, bridges=1),
    "two stages of one channel, a crash": deliveries(BRANCHES, crashes=1, bridges=1),
    "servers that refuse, a retry": deliveries(LINE, parks=1, bridges=1, refusals=True),
    "a pause, a duplicate": deliveries(LINE, pauses=1, duplicates=1, bridges=1),
    "a dead letter that is dropped, a stage that is forgotten": deliveries(
        LINE, burials=1, drops=1, forgets=1, bridges=1
    ),
    "broker mode": brokered(gives_up=1, repeats=1, replays=1, bridges=1),
    "two answers, a lost answer, a retry": deliveries(LINE, answers=2, lost_answers=1, parks=1, bridges=1),
    "two stages that split one event": deliveries(BOTH_EMIT, answers=2, lost_answers=1, bridges=1),
    "order by key, a crash": ordered("xx", crashes=1, bridges=1),
    "order by key, reads of two, a crash": ordered("xx", reads=2, crashes=1, bridges=1),
    "order by key, a pause": ordered("xx", pauses=1, bridges=1),
    "order by key, two answers, a lost answer": ordered("xx", answers=2, lost_answers=1, bridges=1),
    "a stage that changes its channel, a retry": deliveries(LINE, moves=1, parks=1, bridges=1),
    "two events at a limit of one, a stage that is away": deliveries(SILENT, events=2, limit=1, absences=1, bridges=1),
    "order by key, a dead letter, a replay": ordered("xx", burials=1, replays=1, bridges=1),
    "a replica that is behind is promoted": deliveries(LINE, failovers=1, bridges=1),
    "order by key that a stage loses": ordered("xx", rollouts=1, bridges=1),
    "one of two channels, a day's delay": deliveries(LINE, channels=2, delays=1, bridges=1),
    "adoption, a clean stop": adoptions(0, stops=1),
    "adoption, servers that refuse": adoptions(0, refusals=True),
    "adoption, an event, a crash": adoptions(2, crashes=1),
    "a switch, a stop, a crash": switches("a", stops=1, crashes=1),
    "a switch of two stages, a stop": switches("a", "b", stops=1),
    "a switch of a stage that is ordered by key, a stop": switches("a", events=2, keys=("x", "x"), stops=1),
    "a switch of a stage that is paused, a stop": switches("a", pauses=1, stops=1),
}

WHOLE: dict[str, Make] = {
    "one event, every act once": deliveries(
        LINE, crashes=1, parks=1, burials=1, lost_answers=1, duplicates=1, replays=1
    ),
    "one event, two crashes, two retries": deliveries(LINE, crashes=2, parks=2, times=True),
    "two events, a crash, a retry": deliveries(LINE, events=2, crashes=1, parks=1),
    "two events, a lost answer, a dead letter": deliveries(LINE, events=2, lost_answers=1, burials=1),
    "two stages of one channel, a crash, a retry": deliveries(BRANCHES, crashes=1, parks=1),
    "two stages of one channel, a dead letter, a replay": deliveries(BRANCHES, burials=1, replays=1),
    "a pause, a crash, a retry": deliveries(LINE, pauses=1, crashes=1, parks=1),
    "two stages of one channel, a pause": deliveries(BRANCHES, pauses=1),
    "servers that refuse, every act but a crash": deliveries(
        LINE, parks=1, burials=1, replays=1, duplicates=1, pauses=1, bridges=1, refusals=True
    ),
    "three answers of two events, a crash, a lost answer": deliveries(
        LINE, events=2, answers=3, crashes=1, lost_answers=1
    ),
    "two answers, servers that refuse, a retry, a dead letter": deliveries(
        LINE, answers=2, bridges=1, parks=1, burials=1, replays=1, refusals=True
    ),
    "two stages that split one event, a crash, a lost answer": deliveries(
        BOTH_EMIT, answers=2, crashes=1, lost_answers=1
    ),
    "a dead letter that is dropped, a stage that is forgotten, a crash": deliveries(
        LINE, burials=1, drops=1, forgets=1, crashes=1
    ),
    "two stages of one channel, of which one is forgotten, a retry": deliveries(BRANCHES, parks=1, forgets=1),
    "a dead letter that is dropped, a stage that is forgotten, servers that refuse": deliveries(
        LINE, burials=1, drops=1, forgets=1, bridges=1, refusals=True
    ),
    "two events, reads of two, a crash, a retry, a lost answer": deliveries(
        LINE, events=2, reads=2, crashes=1, parks=1, lost_answers=1, bridges=1
    ),
    "a stage that changes its channel and comes back, a retry, a dead letter, a replay": deliveries(
        LINE, moves=2, parks=1, burials=1, replays=1, bridges=1
    ),
    "a stage that changes its channel and comes back, a crash, a retry": deliveries(LINE, moves=2, crashes=1, parks=1),
    "two stages of one channel, of which one changes it, is forgotten there or whole, a retry": deliveries(
        BRANCHES, moves=1, forgets=1, parks=1, bridges=1
    ),
    "three events at a limit of two, a stage that is away": deliveries(
        SILENT, events=3, limit=2, absences=1, parks=1, bridges=1
    ),
    "three events at a limit of one, two stages of which one is away": deliveries(
        BOTH_SILENT, events=3, limit=1, absences=1, bridges=1
    ),
    "broker mode, a crash, a retry": brokered(crashes=1, parks=1, gives_up=1, repeats=1),
    "broker mode, two events, dead letters and messages that are no events": brokered(
        events=2, gives_up=2, repeats=1, replays=1, drops=2, messages=1, bridges=1
    ),
    "broker mode, servers that refuse": brokered(
        gives_up=1, repeats=1, replays=1, drops=1, messages=1, bridges=1, refusals=True
    ),
    "order by key, two keys, a crash": ordered("xxy", crashes=1),
    "order by key, two bridges, a crash, a retry, a lost answer": ordered("xx", crashes=1, parks=1, lost_answers=1),
    "order by key, two keys, a crash, a retry, a lost answer": ordered(
        "xyx", crashes=1, parks=1, lost_answers=1, bridges=1
    ),
    "order by key, two bridges, reads of two, a crash, a retry": ordered("xx", reads=2, crashes=1, parks=1),
    "order by key, two keys, reads of two, a lost answer": ordered("xyx", reads=2, lost_answers=1, bridges=1),
    "order by key, a pause, a crash, a retry": ordered("xx", pauses=1, crashes=1, parks=1, bridges=1),
    "order by key, two answers, a crash, a retry, a lost answer": ordered(
        "xx", answers=2, crashes=1, parks=1, lost_answers=1, bridges=1
    ),
    "order by key that a stage leaves behind, a retry, a dead letter, a replay": ordered(
        "xx", moves=2, parks=1, burials=1, replays=1, bridges=1
    ),
    "order by key, a stage that changes its channel, a crash, a retry, a forget": ordered(
        "xx", moves=1, forgets=1, crashes=1, parks=1, bridges=1
    ),
    "order by key, three of a key, a dead letter, a replay": ordered("xxx", burials=1, replays=1, crashes=1, bridges=1),
    "order by key, two bridges, a dead letter, a replay": ordered("xx", burials=1, replays=1, crashes=1),
    "order by key, a retry, two dead letters, a replay": ordered("xyx", parks=1, burials=2, replays=1, bridges=1),
    "order by key, a dead letter that is dropped, a stage that is forgotten": ordered(
        "xxy", burials=1, drops=1, forgets=1, bridges=1
    ),
    "order by key, servers that refuse, a retry, a dead letter": ordered(
        "xx", parks=1, burials=1, replays=1, bridges=1, refusals=True
    ),
    "order by key, servers that refuse, two keys": ordered("xxy", bridges=1, refusals=True),
    "order by key, servers that refuse, an event in hand that an operator deletes": ordered(
        "xx", deletions=1, parks=1, bridges=1, refusals=True
    ),
    "order by key, two stages of one channel": deliveries(BRANCHES, events=2, keys=("x", "x"), crashes=1, bridges=1),
    "order by key that a stage loses and gets again, a retry": ordered("xx", rollouts=2, parks=1, bridges=1),
    "order by key that one of two bridges does not know, a crash": ordered("xx", rollouts=2, crashes=1),
    "order by key, an event in hand that an operator deletes, a retry": ordered("xxy", deletions=1, parks=1, bridges=1),
    "order by key, a day's delay, a retry": ordered("xx", delays=1, parks=1, bridges=1),
    "order by key, a replica that is behind is promoted, a retry": ordered("xx", failovers=1, parks=1, bridges=1),
    "a replica that is behind is promoted, a crash": deliveries(LINE, failovers=1, crashes=1),
    "a replica that is behind is promoted, a retry, a dead letter, a replay": deliveries(
        LINE, failovers=1, parks=1, burials=1, replays=1, bridges=1
    ),
    "a replica that is behind is promoted, two stages of one channel, two answers": deliveries(
        BRANCHES, failovers=1, answers=2, bridges=1
    ),
    "one of two channels, a day's delay, a crash, a lost answer": deliveries(
        LINE, channels=2, delays=1, crashes=1, lost_answers=1
    ),
    "two answers on two channels, a day's delay, servers that refuse": deliveries(
        LINE, channels=2, answers=2, delays=1, bridges=1, refusals=True
    ),
    "a message, two stops, a lost answer": adoptions(0, stops=2, lost_answers=1, tokens=2),
    "two messages, a stop": adoptions(0, 1, stops=1, tokens=2),
    "a message and an event, a crash": adoptions(0, 2, crashes=1),
    "a message, a stop, a crash": adoptions(0, stops=1, crashes=1),
    "an event, a stop, a crash": adoptions(2, stops=1, crashes=1),
    "a message, a stop, a lost connection": adoptions(0, stops=1, disconnections=1),
    "a message, a stop, a lease that expires": adoptions(0, stops=1, expiries=1, tokens=2),
    "a message, two leases that expire": adoptions(0, expiries=2, tokens=2),
    "a message, two leases that expire, a stop": adoptions(0, expiries=2, stops=1, tokens=2),
    "a message, a replica that is behind is promoted": adoptions(0, failovers=1),
    "an event, a replica that is behind is promoted": adoptions(2, failovers=1),
    "an event, two lost connections, a lost answer": adoptions(2, disconnections=2, lost_answers=1),
    "an event, a lease that expires": adoptions(2, expiries=1),
    "a message, three bridges, a stop": adoptions(0, stops=1, bridges=3),
    "adoption, servers that refuse, a stop": adoptions(0, stops=1, refusals=True),
    "a switch, a stop, a freeze, a retry, a dead letter": switches("a", stops=1, freezes=1, parks=1, burials=1),
    "a switch there and back, a crash": switches("a", stops=2, crashes=1),
    "a switch with two events, a stop, a crash": switches("a", events=2, stops=1, crashes=1),
    "a switch of two stages, a stop, a freeze, a retry": switches("a", "b", stops=1, freezes=1, parks=1),
    "a switch, a stop, a replica that is behind is promoted": switches("a", stops=1, failovers=1),
    "a switch, servers that refuse, a stop": switches("a", stops=1, refusals=True),
    "a switch, a stop, a dead letter, a replay": switches("a", stops=1, burials=1, replays=1),
    "a switch, a stop, a duplicate, a lost answer, a day's delay": switches(
        "a", stops=1, duplicates=1, lost_answers=1, delays=1
    ),
    "a switch of a stage that is ordered by key, a stop, a retry": switches(
        "a", events=2, keys=("x", "x"), stops=1, parks=1
    ),
    "a switch there and back of a stage that is ordered by key": switches("a", events=2, keys=("x", "x"), stops=2),
    "a switch of a stage that is ordered by key, servers that refuse": switches(
        "a", events=2, keys=("x", "x"), stops=1, refusals=True
    ),
    "a switch of a stage that is paused, a stop, a freeze": switches("a", pauses=1, stops=1, freezes=1),
    "a switch of a stage that is paused, two stages, a stop": switches("a", "b", pauses=1, stops=1),
}
