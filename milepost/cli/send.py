"""`milepost send`: one submission through the gateway, followed by the gateway's event stream."""

import asyncio
import contextlib
import json
import re
import shlex
from datetime import datetime, timedelta
from typing import Annotated, Any

import httpx
import typer

from milepost.cli import locate
from milepost.cli.exits import CommandFailed, Exit, Unreachable
from milepost.cli.local import data_folder
from milepost.cli.local.readiness import shown
from milepost.cli.loop import run
from milepost.cli.options import Data
from milepost.cli.text import brief, plain, say
from milepost.errors import ConfigurationError
from milepost.events.ids import new_id
from milepost.journal import ENDED_AT, GAVE_UP, PARTS

PAUSE = 0.5
"""Seconds between a stream that ended early and the next."""

SILENCE = 40.0
"""Seconds without a byte after which a stream is given up. The gateway sends something every 15 s."""

NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)
"""What a request raises that did not reach the gateway."""


def send(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Where the answer goes.")],
    lat: Annotated[str, typer.Argument(metavar="LAT", help="Degrees north.")],
    long: Annotated[str, typer.Argument(metavar="LONG", help="Degrees east.")],
    *,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for the message.")] = 60,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Idempotency-Key: the same place with the same key is one submission.",
            show_default="a new one",
        ),
    ] = None,
    gateway: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The gateway.", show_default=f"the one in DIR/stack.json, else {locate.GATEWAY}"
        ),
    ] = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Submit a place, show each channel as it is reached, and print the message.

    `milepost send ada@example.org 51.5074 -0.1278` ends with the message, or with 4 if a stage gave the event up.
    """
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{1,255}", key):  # as the gateway takes it
        raise ConfigurationError("--key: must be 1 to 255 visible ASCII characters")
    submission = {"email": email, "lat": lat, "long": long}
    try:
        "".join(submission.values()).encode()
    except UnicodeEncodeError:
        raise ConfigurationError("EMAIL, LAT and LONG must be UTF-8") from None
    run(_send(locate.gateway_url(gateway, data), submission, key or new_id(), timeout))


async def _send(gateway: str, submission: dict[str, str], key: str, within: float) -> Exit:
    reached: dict[str, Any] = {}
    wrong = ConfigurationError("--gateway: must look like http://host:port")
    try:
        opened = httpx.AsyncClient(base_url=gateway, trust_env=False, timeout=SILENCE)
        host = opened.base_url.host  # raises UnicodeError for an `xn--` name that cannot be decoded
    except (httpx.InvalidURL, UnicodeError):  # its text may hold a part of a password
        raise wrong from None
    if not host or (opened.base_url.port or 0) > 65535:
        raise wrong
    async with opened as client:
        place = await _submit(client, submission, key)
        try:
            async with asyncio.timeout(within):
                await _follow(client, place, reached)
        except TimeoutError:
            last = (
                f"the last channel reached is {plain(next(reversed(reached)))}" if reached else "no channel was reached"
            )
            say(f"not finished within {within:g} s: {last}; `milepost stages` shows what waits where")
            return Exit.UNFINISHED
    for channel, data in reached.items():
        if channel.startswith(GAVE_UP):
            reason = data.get("reason") if isinstance(data, dict) else data
            say(f"stage {plain(channel.removeprefix(GAVE_UP))} gave it up: {plain(str(reason))}")
            return Exit.BURIED
    for channel in [channel for channel in reached if channel.startswith(ENDED_AT)]:
        del reached[channel]
        say(f"stage {plain(channel.removeprefix(ENDED_AT))} gave no answer")
    messages = [data["message"] for data in reached.values() if isinstance(data, dict) and "message" in data]
    for message in messages or [*reached.values()][-1:]:
        print(brief(message))
    return Exit.DONE


async def _submit(client: httpx.AsyncClient, submission: dict[str, str], key: str) -> str:
    """Submit, and return the path where the submission can be followed. A second try has the key of the first."""
    headers = {"idempotency-key": key}
    gateway = shown(str(client.base_url))
    again = f"it may have accepted the submission: with `--key {shlex.quote(key)}` another try counts once"
    lost = False
    try:
        try:
            answer = await client.post("/distance", json=submission, headers=headers)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            lost = True
            answer = await client.post("/distance", json=submission, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as fault:
        if isinstance(fault, NEVER_SENT) and not lost:
            raise Unreachable(
                f"no gateway at {gateway}: {fault}; start `milepost up`, or name another with --gateway"
            ) from None
        raise Unreachable(f"no answer from {gateway}: {fault or type(fault).__name__}; {again}") from None
    if answer.status_code == 422:
        raise ConfigurationError(_detail(answer))
    if answer.status_code == 503:
        raise Unreachable(f"the gateway takes nothing now: {_detail(answer)}; {again}")
    if answer.status_code != 202:
        told = f"the gateway answered {answer.status_code}: {_detail(answer)}"
        # For 5xx a proxy may have answered, when the gateway had the submission already.
        raise CommandFailed(f"{told}; {again}" if lost or answer.status_code >= 500 else told)
    try:
        accepted = answer.json()
        event, place = accepted["id"], accepted["status"]
    except (ValueError, KeyError, TypeError):
        event = place = None
    if not (isinstance(event, str) and isinstance(place, str) and place.startswith("/")):
        raise CommandFailed(f"the gateway answered 202, but without the submission's id and path; {again}")
    print(f"{'accepted':<24} {plain(event)}")
    return place


async def _follow(client: httpx.AsyncClient, place: str, reached: dict[str, Any]) -> None:
    """Show each channel that the submission reaches, and note its data, until there are no more.

    A stream may end early, because the gateway stops or has too many. The next one goes on where it ended.
    """
    began: datetime | None = None
    have = ""
    while True:
        # The gateway may be restarting, or behind a proxy that answers for it.
        with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
            headers = {"last-event-id": have}
            async with client.stream("GET", f"{place}/events", headers=headers) as answer:
                answer.raise_for_status()
                named = False
                async for line in answer.aiter_lines():
                    if line.startswith("id:"):
                        have = line.removeprefix("id:").strip()
                    named = line.startswith("event:") or (named and line != "")
                    if named or not line.startswith("data:"):
                        continue  # an event with a name tells of no channel
                    step = json.loads(line.removeprefix("data:"))
                    channel, at = step["channel"], datetime.fromisoformat(step["time"])
                    began = began or at
                    reached[channel] = step["data"]
                    shown = f"{plain(channel):<24} {(at - began) / timedelta(milliseconds=1):6.0f} ms"
                    print(f"{shown}  {_of_parts(step['data'])}" if channel.startswith(PARTS) else shown)
                    if step["last"]:
                        return
                if answer.status_code == 204:  # nothing more is to come
                    return
        await asyncio.sleep(PAUSE)


def _of_parts(data: dict[str, int]) -> str:
    return f"{data['parts']} parts, {data['ended']} ended"


def _detail(answer: httpx.Response) -> str:
    try:
        return plain(str(answer.json()["detail"]))
    except (ValueError, KeyError, TypeError):
        return plain(answer.text[:200])
