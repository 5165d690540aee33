"""The search for the server that has our keys: whose answer counts, and for whom it waits."""

import asyncio
import gc
from collections.abc import Iterator, Mapping, Sequence

import pytest
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError

from milepost.journal import servers as servers_module
from milepost.journal.servers import MOST_ASKED, Cluster, Options, Servers, ServerView
from milepost.settings import RedisUrl, ServerAddress, read_redis_url
from tests.servers import WITHIN

ONE, TWO, THREE = (ServerAddress(name, 1) for name in ("one", "two", "three"))
OLD, NEW = ServerAddress("old", 1), ServerAddress("new", 1)

Told = ServerView | Exception | None
"""The answer of a server; None: there is none."""


class Answering(Servers):
    """Servers whose answers the test gives."""

    what = "witness"

    def __init__(
        self,
        answers: Mapping[ServerAddress, Told],
        *groups: Sequence[ServerAddress],
        fails_when_cancelled: ServerAddress | None = None,
    ) -> None:
        super().__init__(read_redis_url("redis://one"))
        self.fails_when_cancelled = fails_when_cancelled
        self.answers = dict(answers)
        self.groups = groups or [[*answers]]
        self.late: Sequence[ServerAddress] = ()
        self.waiting = 0

    def _groups(self) -> Iterator[Sequence[ServerAddress]]:
        yield from self.groups

    async def _ask(self, server: ServerAddress, _: Options) -> ServerView:
        answer = self.answers[server]
        for _ in range(9 if server in self.late else 0):
            await asyncio.sleep(0)
        if answer is None:
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.waiting -= 1
                if server == self.fails_when_cancelled:
                    raise ConnectionLost("lost")
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None
        return answer


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for in vain: that would outlast the test."""
    monkeypatch.setattr(servers_module, "ASK_WITHIN", 100 * WITHIN)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers_module, "ASK_WITHIN", 0.01)


async def test_more_than_half_decide_and_the_latest_epoch_counts(patient: None) -> None:
    of = Answering({ONE: ServerView((1,), OLD), TWO: ServerView((2,), NEW), THREE: None})
    async with asyncio.timeout(WITHIN):
        assert await of.find({}) == NEW
    assert not of.waiting, "the third is not asked any more"


async def test_server_that_fails_after_the_decision_is_not_reported(patient: None) -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    of = Answering({ONE: ServerView((1,), NEW), TWO: ServerView((1,), NEW), THREE: None}, fails_when_cancelled=THREE)
    assert await of.find({}) == NEW
    gc.collect()
    assert not reported


async def test_half_of_them_decide_only_after_a_time(brief: None) -> None:
    of = Answering({ONE: ServerView((1,), OLD), TWO: None})
    assert await of.find({}) == OLD
    assert not of.waiting


async def test_half_of_them_wait_for_another(patient: None) -> None:
    of = Answering({ONE: ServerView((1,), OLD), TWO: ServerView((2,), NEW)})
    of.late = [TWO]
    assert await of.find({}) == NEW


async def test_server_that_fails_is_not_waited_for(patient: None) -> None:
    of = Answering({ONE: ConnectionLost("refused"), TWO: ServerView((1,), NEW), THREE: ValueError("odd")})
    async with asyncio.timeout(WITHIN):
        assert await of.find({}) == NEW


async def test_other_servers_are_asked_only_if_none_of_the_first_answers(brief: None) -> None:
    groups = [[ONE], [TWO], [THREE]]
    of = Answering({ONE: None, TWO: ServerView((1,), OLD), THREE: ServerView((2,), NEW)}, *groups)
    assert await of.find({}) == OLD


async def test_last_server_found_is_used_while_none_answers(brief: None) -> None:
    of = Answering({ONE: ServerView((1,), NEW)})
    assert await of.find({}) == NEW
    of.answers[ONE] = None
    assert await of.find({}) == NEW


async def test_servers_that_know_no_primary_say_why(patient: None) -> None:
    of = Answering({ONE: ServerView((1,), OLD), TWO: ServerView((2,), None, "it is down"), THREE: None})
    with pytest.raises(ConnectionLost, match="it is down"):
        await of.find({})


async def test_servers_that_do_not_answer_are_named_with_each_reason(brief: None) -> None:
    of = Answering({ONE: RedisError("refused"), TWO: RedisError(), THREE: ValueError("odd"), OLD: None, NEW: None})
    reasons = "RedisError at its answer; ValueError at its answer; no answer in time; refused"
    with pytest.raises(ConnectionLost, match=f"^no witness answers: {reasons}$"):
        await of.find({})


async def test_nodes_of_a_large_cluster_are_asked_in_groups() -> None:
    class Asked(Cluster):
        """Nodes of which none answers."""

        def __init__(self, url: RedisUrl) -> None:
            super().__init__(url)
            self.asked: list[str] = []

        async def _ask(self, server: ServerAddress, _: Options) -> ServerView:
            self.asked.append(server.host)
            raise ConnectionLost("refused")

    names = [f"node-{number}" for number in range(2 * MOST_ASKED + 1)]
    of = Asked(read_redis_url(f"redis+cluster://{','.join(names)}"))
    with pytest.raises(ConnectionLost, match="no node of the Cluster answers: refused"):
        await of.find({})
    assert sorted(of.asked) == sorted(names), "each once"
    assert sorted(of.asked[:MOST_ASKED]) == sorted(names[:MOST_ASKED])
