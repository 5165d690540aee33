"""A submission that a stage has split: its status, its page, its live stream, and those of its parts."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import httpx
import pytest

from gateway import parts
from gateway.status import GraphReader
from milepost.events.event import Event
from milepost.graph import Graph, Node
from milepost.journal import Bury, Complete, Consumer, Failure, Journal, Split, keys
from milepost.journal.connection import connect
from milepost.journal.shared_connection import SharedConnection
from milepost.settings import JournalSettings
from tests.cli.running import MILEPOST
from tests.gateway.samples import LONDON
from tests.gateway.test_watching import Stream, watching
from tests.servers import Module, Valkey

STAGES = {"split": ("raw_input", "item"), "ship": ("item", "shipped")}


@pytest.fixture
def client(visitor: httpx.AsyncClient) -> httpx.AsyncClient:
    return visitor


class Stages:
    """Both stages, as a bridge settles for them."""

    def __init__(self, url: str) -> None:
        settings = JournalSettings(redis_url=url)
        self.journal = Journal(connect(settings), settings)
        self._connection = SharedConnection(self.journal.redis)
        self._consumers = {
            name: Consumer(
                name,
                consumes,
                "bridge",
                reader=self._connection,
                scripts=self.journal.scripts,
                deadline=timedelta(days=1),
            )
            for name, (consumes, _) in STAGES.items()
        }

    async def open(self) -> None:
        for consumer in self._consumers.values():
            await consumer.ensure()

    async def split(self, into: int) -> None:
        (entry,) = await self._consumers["split"].take(1)
        event = Event.from_json(entry.event)
        answers = [Event(id=f"{event.id}/{n}", source="/s", type="item", data=n) for n in range(into)]
        assert await self._consumers["split"].settle([Split(entry, event.id, answers)]) == ["done"]

    async def ship(self) -> None:
        """Finish one part."""
        (entry,) = await self._consumers["ship"].take(1)
        event = Event.from_json(entry.event)
        reply = Event(id=event.id, source="/s", type="shipped", data=event.data)
        assert await self._consumers["ship"].settle([Complete(entry, event.id, reply)]) == ["done"]

    async def leave(self, stage: str = "ship") -> None:
        """Take one event, without an answer."""
        (entry,) = await self._consumers[stage].take(1)
        of = Event.from_json(entry.event).id
        assert await self._consumers[stage].settle([Complete(entry, of, None)]) == ["done"]

    async def refuse(self) -> None:
        """Make a dead letter of one part."""
        (entry,) = await self._consumers["ship"].take(1)
        of = Event.from_json(entry.event).id
        assert await self._consumers["ship"].settle([Bury(entry, of, Failure("no", 422, 0, 0))]) == ["buried"]

    async def close(self) -> None:
        await self._connection.close()
        await self.journal.close()


@pytest.fixture
async def stages(valkey: Valkey) -> AsyncIterator[Stages]:
    made = Stages(valkey.url)
    await made.open()
    yield made
    await made.close()


async def submit(client: httpx.AsyncClient) -> str:
    return str((await client.post("/distance", json=LONDON)).json()["id"])


async def test_status_counts_the_parts_and_each_is_followed_by_its_own_id(
    client: httpx.AsyncClient, stages: Stages
) -> None:
    event_id = await submit(client)
    await stages.split(3)
    for step, ended in ((stages.ship, 1), (stages.refuse, 2), (stages.leave, 3)):
        await step()
        status = (await client.get(f"/submissions/{event_id}")).json()
        assert status["splits"] == [{"stage": "split", "parts": 3, "ended": ended}]
        assert status["over"] is (ended == 3)
        assert [reached["channel"] for reached in status["channels"]] == ["raw_input"]
    for place, channels in enumerate((["item", "shipped"], ["item", "dead:ship"], ["item", "ended:ship"])):
        part = (await client.get(f"/submissions/{event_id}/{place}")).json()
        assert (part["id"], part["over"], "splits" in part) == (f"{event_id}/{place}", True, False)
        assert [reached["channel"] for reached in part["channels"]] == channels
    for unknown in ("3", "x", "0/0", "01"):
        assert (await client.get(f"/submissions/{event_id}/{unknown}")).status_code == 404
    html = {"accept": "text/html"}
    page = (await client.get(f"/submissions/{event_id}", headers=html)).text
    assert 'data-state="done"' in page
    assert "split: 3 parts, 3 ended" in page
    assert f'href="/submissions/{event_id}/2"' in page
    assert 'data-channel="item"' not in page
    assert (await client.get(f"/submissions/{event_id}/0", headers=html)).status_code == 200


async def test_live_stream_tells_how_many_parts_have_ended_and_ends_with_the_last(
    client: httpx.AsyncClient, stages: Stages
) -> None:
    event_id = await submit(client)
    await stages.split(2)
    async with watching(client, event_id) as watched:
        assert await told(watched) == ("raw_input", LONDON, False)
        assert await told(watched) == ("parts:split", {"parts": 2, "ended": 0}, False)
        await stages.ship()
        assert await told(watched) == ("parts:split", {"parts": 2, "ended": 1}, False)
        have = watched.last_id
    assert have == "raw_input,parts:split=1"
    await stages.ship()
    async with watching(client, event_id, have) as watched:
        assert await told(watched) == ("parts:split", {"parts": 2, "ended": 2}, True)
        assert await watched.next() is None
        have = watched.last_id
    again = await client.get(f"/submissions/{event_id}/events", headers={"last-event-id": have})
    assert again.status_code == 204
    async with watching(client, f"{event_id}/1") as watched:
        assert await told(watched) == ("item", 1, False)
        assert await told(watched) == ("shipped", 1, True)


async def told(watched: Stream) -> tuple[str, object, bool]:
    found = await watched.next()
    assert found is not None
    return found["channel"], found["data"], found["last"]


async def test_message_of_a_part_moves_the_stream_of_the_whole(client: httpx.AsyncClient, stages: Stages) -> None:
    event_id = await submit(client)
    async with watching(client, event_id) as watched:
        assert await told(watched) == ("raw_input", LONDON, False)
        await stages.split(1)
        assert (await told(watched))[1] == {"parts": 1, "ended": 0}
        await stages.ship()
        assert await told(watched) == ("parts:split", {"parts": 1, "ended": 1}, True)


async def test_milepost_send_shows_the_parts_and_ends_with_the_last(own_gateway: Module, stages: Stages) -> None:
    command = [*MILEPOST, "send", "ada@example.org", "51.5", "-0.1", "--gateway", own_gateway.url]
    sending = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert sending.stdout
    lines = [await sending.stdout.readline() for _ in range(2)]
    await stages.split(2)
    lines += [await sending.stdout.readline()]
    for _ in range(2):
        await stages.ship()
        lines += [await sending.stdout.readline()]
    assert await sending.wait() == 0
    assert [line.split()[0] for line in lines] == [b"accepted", b"raw_input", *[b"parts:split"] * 3]
    assert [line.split(b"ms  ")[1] for line in lines[2:]] == [b"2 parts, %d ended\n" % ended for ended in range(3)]


async def test_submission_without_parts_is_over_at_once(client: httpx.AsyncClient, stages: Stages) -> None:
    event_id = await submit(client)
    await stages.split(0)
    status = (await client.get(f"/submissions/{event_id}")).json()
    assert (status["over"], status["splits"]) == (True, [{"stage": "split", "parts": 0, "ended": 0}])


async def test_one_look_reads_so_many_statuses_and_the_next_goes_on(
    client: httpx.AsyncClient, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part under way, or dead, does not keep those behind it from being counted."""
    event_id = await submit(client)
    await stages.split(5)
    await stages.refuse()
    for _ in range(3):
        await stages.ship()
    monkeypatch.setattr(parts, "MOST_READ", 2)
    graph, notes = await GraphReader(stages.journal).graph(), await stages.journal.status(event_id)
    reader = parts.PartsReader(stages.journal)
    look, read = stages.journal.reached, list[int]()

    async def reached(ids: Sequence[str]) -> list[dict[str, int]]:
        read.append(len(ids))
        return await look(ids)

    monkeypatch.setattr(stages.journal, "reached", reached)
    counted = [await reader.read(event_id, notes, graph) for _ in range(3)]
    assert read == [2, 2, 2]
    assert [split.ended for (split,) in counted] == [2, 4, 4]
    await stages.ship()
    (split,) = await reader.read(event_id, notes, graph)
    assert split.is_over


async def test_parts_of_parts_are_counted_look_after_look(
    client: httpx.AsyncClient, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: a first part whose own parts do not end keeps none of the others uncounted."""
    event_id, redis = await submit(client), stages.journal.redis
    await stages.split(3)
    for _ in range(3):
        await stages.ship()
    split = b'{"at":1,"data":{"parts":3}}'
    for place in range(3):
        await redis.hset(keys.status(f"{event_id}/{place}"), "parts:ship", split)
        await redis.hdel(keys.status(f"{event_id}/{place}"), "shipped")
        for number in range(3):
            await redis.hset(keys.status(f"{event_id}/{place}/{number}"), "shipped", split)
    monkeypatch.setattr(parts, "MOST_READ", 5)
    graph = Graph([Node("split", "raw_input", "item"), Node("ship", "item", "shipped"), Node("post", "shipped", "end")])
    reader, notes = parts.PartsReader(stages.journal), await stages.journal.status(event_id)
    for place in (1, 2):
        for number in range(3):
            await redis.hset(keys.status(f"{event_id}/{place}/{number}"), "end", split)
    counted = [await reader.read(event_id, notes, graph) for _ in range(8)]
    assert counted[-1] == [parts.SplitProgress("split", 3, 2)]
    for number in range(3):
        await redis.hset(keys.status(f"{event_id}/0/{number}"), "end", split)
    counted = [await reader.read(event_id, notes, graph) for _ in range(2)]
    assert counted[-1] == [parts.SplitProgress("split", 3, 3)]


async def test_replayed_dead_letter_of_a_part_is_under_way_again(client: httpx.AsyncClient, stages: Stages) -> None:
    event_id = await submit(client)
    await stages.split(1)
    await stages.refuse()
    assert (await client.get(f"/submissions/{event_id}")).json()["over"] is True
    await stages.journal.redis.hdel(keys.status(f"{event_id}/0"), "dead:ship")  # as a replay does
    assert (await client.get(f"/submissions/{event_id}")).json()["over"] is False


async def test_event_that_a_stage_does_not_answer_has_ended_there(client: httpx.AsyncClient, stages: Stages) -> None:
    event_id = await submit(client)
    async with watching(client, event_id) as watched:
        assert await told(watched) == ("raw_input", LONDON, False)
        await stages.leave("split")
        assert await told(watched) == ("ended:split", None, True)
        assert await watched.next() is None
        have = watched.last_id
    assert have == "raw_input,ended:split"
    again = await client.get(f"/submissions/{event_id}/events", headers={"last-event-id": have})
    assert again.status_code == 204
    status = (await client.get(f"/submissions/{event_id}")).json()
    assert status["over"] is True
    assert [reached["channel"] for reached in status["channels"]] == ["raw_input", "ended:split"]
    page = (await client.get(f"/submissions/{event_id}", headers={"accept": "text/html"})).text
    assert 'data-state="ended"' in page
    assert "split: no answer" in page
    assert 'data-channel="item"' not in page


async def test_milepost_send_ends_where_a_stage_does_not_answer(own_gateway: Module, stages: Stages) -> None:
    command = [*MILEPOST, "send", "ada@example.org", "51.5", "-0.1", "--gateway", own_gateway.url]
    pipe = asyncio.subprocess.PIPE
    sending = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    assert sending.stdout
    for _ in range(2):
        await sending.stdout.readline()
    await stages.leave("split")
    said, told_apart = await sending.communicate()
    assert sending.returncode == 0
    assert said.split()[0] == b"ended:split"
    assert told_apart.endswith(b"stage split gave no answer\n")


async def test_milepost_watch_tells_how_many_parts_there_are(
    client: httpx.AsyncClient, stages: Stages, valkey: Valkey
) -> None:
    watching = [*MILEPOST, "watch", "--redis-url", valkey.url]
    pipe = asyncio.subprocess.PIPE
    shown, as_json = [
        await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
        for command in (watching, [*watching, "item", "--json"])
    ]
    try:
        for process in (shown, as_json):
            assert process.stderr
            assert b"watching" in await process.stderr.readline()
        event_id = await submit(client)
        await stages.split(2)
        await stages.ship()
        assert shown.stdout
        assert as_json.stdout
        lines = [(await shown.stdout.readline()).split(maxsplit=3)[1:] for _ in range(5)]
        whole = event_id.encode()
        assert [line[:2] for line in lines] == [
            [b"raw_input", whole],
            [b"parts:split", whole],
            [b"item", whole + b"/0"],
            [b"item", whole + b"/1"],
            [b"shipped", whole + b"/0"],
        ]
        assert lines[1][2] == b'{"parts":2}\n'
        told = json.loads(await as_json.stdout.readline())
        assert (told["channel"], told["message"]["data"]) == ("parts:split", {"parts": 2})
    finally:
        for process in (shown, as_json):
            process.kill()
            await process.wait()
        await stages.ship()


async def test_part_whose_status_has_expired_has_ended(
    client: httpx.AsyncClient, stages: Stages, valkey: Valkey
) -> None:
    event_id = await submit(client)
    await stages.split(1)
    await stages.ship()
    await stages.journal.redis.delete(keys.status(f"{event_id}/0"))
    assert (await client.get(f"/submissions/{event_id}")).json()["over"] is True
