"""The gateway's settings."""

from typing import Annotated

from limits import parse
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from gateway.notifier import MOST_WATCHERS
from milepost.graph import WiredStage
from milepost.settings import JournalSettings


def limit(text: str) -> str:
    """Refuse text that `limits` cannot parse."""
    try:
        parse(text)
    except ValueError:
        raise ValueError("must look like 60/minute, or 5 per second") from None
    return text


SHORTEST_TOKEN = 16


def hard_to_guess(token: SecretStr) -> SecretStr:
    """Refuse a token that can be guessed, or that no header can carry."""
    text = token.get_secret_value()
    if len(text) < SHORTEST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"must have {SHORTEST_TOKEN} visible ASCII characters or more, as of openssl rand -hex 24")
    return token


class GatewaySettings(JournalSettings):
    """Where to listen, and the journal. Each field is an environment variable of its name."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    """0: any free one."""
    rate_limit: Annotated[str, AfterValidator(limit)] | None = None
    """Submissions per client, as in `60/minute`; none unless set."""
    stream_limit: int = Field(20, ge=0, le=MOST_WATCHERS)
    """Live streams of one client at a time; over it, 429, and the page asks every few seconds instead."""
    forwarded_allow_ips: str = ""
    """Addresses or networks of proxies, comma-separated, whose X-Forwarded-For is believed; none unless set. `*`, of
    anyone, lets a client choose the address that both limits count it by.
    """
    ops_token: Annotated[
        Annotated[SecretStr, AfterValidator(hard_to_guess)] | None, BeforeValidator(lambda text: text or None)
    ] = None
    """The password of /ops, 16 characters or more; without it there is no /ops."""
    stages: tuple[WiredStage, ...] = ()
    """The stages, for /channels, /asyncapi.json and wake-ups: a JSON list of `name`, `consumes`, `emits`, and with
    `wake: page` that and `wakeAfter`. `milepost up` and the chart make it.
    """
