"""`milepost stages`."""

import json

from redis import Redis

from milepost.journal import keys
from tests.cli.conftest import Command
from tests.cli.running import Ended, Up
from tests.servers import wait_for


def table(done: Ended) -> list[list[str]]:
    return [line.split() for line in done.stdout.splitlines()]


def test_the_table(up: Up, on_stack: Command) -> None:
    done = on_stack("stages")
    assert done.code == 0
    heading, *rows = table(done)
    assert heading == ["NAME", "CONSUMES", "EMITS", "URL", "SERVED", "SCALE", "JOURNALED", "PARKED", "DEAD"]
    distance = next(row for row in rows if row[0] == "distance")
    assert distance[:5] == ["distance", "raw_input", "calculated_distance", up.stack["functions"]["distance"], "yes"]
    # Events of other tests may still be under way, or wait to be trimmed.
    wait_for(lambda: ["distance", "1", "0", "0", "0"] in [[row[0], *row[5:]] for row in table(on_stack("stages"))])
    lines = done.stdout.splitlines()
    for name in heading[5:]:
        end = lines[0].index(name) + len(name)
        assert all(line[end - 1].isdigit() and not line[end : end + 1].strip() for line in lines[1:]), "right-justified"


def test_json(on_stack: Command) -> None:
    stages = json.loads(on_stack("stages", "--json").stdout)
    assert {stage["name"] for stage in stages} >= {"distance", "store", "email"}
    assert stages[0].keys() == {
        "name",
        "consumes",
        "emits",
        "url",
        "served",
        "journaled",
        "parked",
        "dead",
        "oldest",
        "held",
        "order",
        "paused",
        "left_behind",
        "scale",
    }


def test_ordered_stages_are_shown_with_their_key_and_the_held_events(up: Up, on_stack: Command) -> None:
    channel = "in-order"  # of this test alone: events of others would be counted
    row = {"consumes": [channel], "emits": [], "url": "http://a", "beat": 0}
    with Redis.from_url(up.stack["redis"]) as redis:
        redis.hset(keys.STAGES, "by-field", json.dumps({**row, "order": "customer"}))
        redis.hset(keys.STAGES, "by-partition", json.dumps({**row, "order": True}))
        redis.zadd(keys.held("by-field", channel), {"one": 0, "two": 0})
        heading, *rows = table(on_stack("stages"))
        redis.delete(keys.held("by-field", channel))
        redis.hdel(keys.STAGES, "by-field", "by-partition")
    named = ["NAME", "CONSUMES", "EMITS", "ORDER", "URL", "SERVED", "SCALE", "JOURNALED", "HELD", "PARKED", "DEAD"]
    assert heading == named
    shown = {row[0]: dict(zip(named, row, strict=True)) for row in rows}
    assert {name: shown[name]["ORDER"] for name in ("by-field", "by-partition", "distance")} == {
        "by-field": "customer",
        "by-partition": "partitionkey",
        "distance": "-",
    }
    assert (shown["by-field"]["JOURNALED"], shown["by-field"]["HELD"]) == ("2", "2")


def test_a_stage_is_paused_and_resumed(on_stack: Command) -> None:
    assert on_stack("stages", "pause", "email").stdout == "email is paused\n"
    try:
        assert on_stack("stages", "pause", "email").stdout == "email was paused already\n"
        assert ["email", "paused"] in [[row[0], row[4]] for row in table(on_stack("stages"))]
    finally:
        assert on_stack("stages", "resume", "email").stdout == "email is resumed\n"
    assert on_stack("stages", "resume", "email").code == 1
    assert "no stage is called geo" in on_stack("stages", "pause", "geo").stderr


def test_a_served_stage_is_not_forgotten(on_stack: Command) -> None:
    done = on_stack("stages", "forget", "email", "--yes")
    assert done.code == 1
    assert "email is served by a bridge" in done.stderr


def test_an_unserved_stage_is_forgotten_after_a_question(up: Up, on_stack: Command) -> None:
    row = json.dumps({"consumes": ["unheard"], "emits": [], "url": "http://gone", "beat": 0})
    with Redis.from_url(up.stack["redis"]) as redis:
        redis.hset(keys.STAGES, "old", row)
        assert on_stack("stages", "forget", "old", stdin="n\n").code == 1
        assert redis.hexists(keys.STAGES, "old")
        done = on_stack("stages", "forget", "old", stdin="y\n")
        assert done.code == 0, done.stderr
        assert "0 parked and 0 dead" in done.stderr
        assert done.stdout == "old is forgotten, with 0 parked and 0 dead events\n"
        assert not redis.hexists(keys.STAGES, "old")
        redis.xgroup_create(keys.journal("raw_input"), "old", "$")
        row = next(row for row in table(on_stack("stages")) if row[0] == "old:raw_input")
        assert row[1:] == ["raw_input", "-", "-", "no", "-", "0", "0", "0"]
        assert on_stack("stages", "forget", "old:raw_input", "--yes").code == 0
        assert b"old" not in [group["name"] for group in redis.xinfo_groups(keys.journal("raw_input"))]
    unknown = on_stack("stages", "forget", "old")
    assert unknown.code == 1
    assert "no stage is called old" in unknown.stderr


def test_unconsumed_journal_is_named_with_the_command_that_forgets_it(up: Up, on_stack: Command) -> None:
    on_stack("publish", "unheard:of", "text")
    for arguments in (("stages",), ("stages", "--json")):
        told = on_stack(*arguments)
        assert told.code == 0
        line = next(line for line in told.stderr.splitlines() if "unheard:of" in line)
        assert "1 events in the journal of unheard:of, which no stage consumes" in line
    assert on_stack(*line.rpartition("; milepost ")[2].split(), "--yes").code == 0
    assert "unheard:of" not in on_stack("stages").stderr
