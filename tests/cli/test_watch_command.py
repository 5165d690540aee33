"""`milepost watch`."""

import json
import os
import re
import signal
import subprocess
from uuid import uuid4

from redis import Redis

from milepost.journal import keys
from tests.cli.conftest import Command
from tests.cli.running import MILEPOST, Milepost, Up, environment
from tests.servers import ROOT


def test_watch_shows_every_channel_of_the_table_and_outlasts_redis(up: Up, on_stack: Command) -> None:
    with Milepost("watch", "--data", str(up.data)) as watching:
        watching.wait_for_line("watching ")
        assert {"calculated_distance,", "email:sent,", "raw_input,", "user:email"} <= set(watching.output.split())
        on_stack("send", "watched@example.org", "32.080058", "34.864535")
        watching.wait_for_line("You are 0.0 miles from Velocity.")
        way = ["raw_input", "calculated_distance", "user:email", "email:sent"]
        shown = [line.split()[1] for line in watching.lines if "watched" in line]
        assert [channel for channel in shown if channel in way] == way
        os.kill(up.pids["redis"], signal.SIGKILL)
        watching.wait_for_line("Redis is gone")
        watching.wait_for_line("Redis is back")
        event_id = uuid4().hex
        up.wait_for(lambda: on_stack("publish", "user:email", "a@b.co", "--id", event_id).code == 0)
        watching.wait_for_line(event_id)
        assert watching.end(signal.SIGINT) == 130
    assert "Traceback" not in watching.output


def test_watch_adds_the_channels_of_a_stage_that_begins_later(up: Up, on_stack: Command) -> None:
    row = json.dumps({"consumes": ["later:in"], "emits": ["later:out"], "url": "http://later", "beat": 0})
    with Milepost("watch", "--data", str(up.data)) as watching, Redis.from_url(up.stack["redis"]) as redis:
        watching.wait_for_line("watching ")
        assert "later" not in watching.output
        redis.hset(keys.STAGES, "later", row)
        watching.wait_for_line("watching later:in, later:out too")
        watching.wait_for(lambda: redis.publish("later:in", '"a message"') > 0, what="a subscription")
        watching.wait_for_line("a message")
        redis.hdel(keys.STAGES, "later")


def test_json_output_is_one_object_a_line_for_any_message(up: Up, on_stack: Command) -> None:
    with Milepost("watch", "some:channel", "--json", "--data", str(up.data)) as watching:
        watching.wait_for_line("watching some:channel")
        for message in ("\x1b[31mred", '{"a": 1}'):
            on_stack("publish", "some:channel", message)
        watching.wait_for(lambda: len(watching.lines) == 3, what="two messages")
    messages = [json.loads(line) for line in watching.lines[1:]]
    assert [message["channel"] for message in messages] == ["some:channel"] * 2
    assert [message["message"]["data"] for message in messages] == ["\x1b[31mred", {"a": 1}]
    assert "\x1b" not in watching.output


def test_message_of_another_program_that_looks_like_a_part_is_shown_as_it_is(up: Up) -> None:
    with (
        Milepost("watch", "some:channel", "--data", str(up.data)) as watching,
        Redis.from_url(up.stack["redis"]) as redis,
    ):
        watching.wait_for_line("watching some:channel")
        for whole in (rb"\x", b"\xff", rb"\ud800"):
            redis.publish("some:channel", b'{"journalid":"","specversion":"1.0","id":"%b/0"}' % whole)
        watching.wait_for(lambda: len(watching.lines) == 4, what="three messages")


def test_watch_says_where_no_redis_answers(command: Command) -> None:
    done = command("watch", "--redis-url", "redis://ada:secret@127.0.0.1:1")
    assert done.code == 3
    assert "no Redis that can be used at redis://127.0.0.1:1" in done.stderr
    assert "secret" not in done.stderr


def test_channels_have_different_colours_on_a_terminal(up: Up, on_stack: Command) -> None:
    terminal, its = os.openpty()
    env = {name: value for name, value in environment().items() if name != "NO_COLOR"}
    with subprocess.Popen(
        [*MILEPOST, "watch", "--data", str(up.data)], cwd=ROOT, env=env, stdout=its, stderr=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stderr
        assert "watching" in watching.stderr.readline()
        on_stack("send", "coloured@example.org", "32.080058", "34.864535")
        written = b""
        while b"You are 0.0 miles" not in written:
            written += os.read(terminal, 10_000)
        watching.kill()
    os.close(its)
    os.close(terminal)
    colours = dict(re.findall(r"\x1b\[(\d+)m([a-z_:]+) *\x1b\[0m", written.decode()))
    assert set(colours.values()) >= {"raw_input", "calculated_distance", "user:email", "email:sent"}
