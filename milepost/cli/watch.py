"""`milepost watch`: what is published on the channels, as it is published."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from redis.exceptions import RedisError

from milepost.cli import reach
from milepost.cli.channels import Message, subscribed
from milepost.cli.exits import Exit, Failed
from milepost.cli.text import brief, plain, say
from milepost.event import dumps, loads
from milepost.journal import StageStatus
from milepost.settings import JournalSettings

LONGEST_PAUSE = 2.0


async def watch(settings: JournalSettings, channels: Sequence[str], *, as_json: bool) -> Exit:
    """Print one line a message until interrupted. Raises Unreachable if Redis is not there to begin with."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, _end)
    async with reach.journal(settings) as journal:
        chosen = sorted(set(channels)) or all_channels(await journal.stages())
    if not chosen:
        raise Failed("no bridge has told of any stage yet: start one, or name the channels to watch")
    width = max(map(len, chosen))
    lost, pause = False, 0.1
    while True:
        try:
            async with subscribed(settings, chosen) as subscription:
                say("Redis is back" if lost else f"watching {', '.join(map(plain, chosen))}")
                lost, pause = False, 0.1
                async for message in subscription.messages():
                    print(_json(message) if as_json else _line(message, width), flush=True)
        except (RedisError, OSError) as fault:
            if not lost:
                say(f"Redis is gone ({fault}); what is published until it is back is not shown")
            lost = True
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE, 2 * pause)


def all_channels(stages: Iterable[StageStatus]) -> list[str]:
    """Every channel that a stage consumes or emits."""
    return sorted({channel for stage in stages for channel in (*stage.consumes, *stage.emits)})


def _json(message: Message) -> str:
    return dumps({"channel": message.channel, "at": _now().isoformat(), "message": _parsed(message.body)})


def _line(message: Message, width: int) -> str:
    value = _parsed(message.body)
    event_id, data = "-", value
    if isinstance(value, dict) and "specversion" in value:
        event_id, data = str(value.get("id", "-")), value.get("data")
    at = _now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    return f"{at}  {plain(message.channel):<{width}}  {plain(event_id):<36}  {brief(data)}"


def _parsed(body: bytes) -> Any:
    try:
        return loads(body)
    except (ValueError, json.JSONDecodeError):
        return body.decode(errors="backslashreplace")


def _now() -> datetime:
    return datetime.now().astimezone()


def _end() -> None:
    """End at once: redis-py can swallow the one cancellation that asyncio makes of Ctrl-C."""
    sys.stdout.flush()
    os._exit(Exit.INTERRUPTED)
