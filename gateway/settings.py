"""The gateway's settings."""

from typing import Annotated

from limits import parse
from pydantic import AfterValidator, Field

from milepost.settings import JournalSettings


def limit(text: str) -> str:
    """Refuse what `limits` does not read."""
    try:
        parse(text)
    except ValueError:
        raise ValueError("must look like 60/minute, or 5 per second") from None
    return text


class GatewaySettings(JournalSettings):
    """Where to listen, and the journal. Each field is an environment variable of its name."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    """0: any free one."""
    rate_limit: Annotated[str, AfterValidator(limit)] | None = None
    """Submissions per client, as in `60/minute`; none unless set."""
    forwarded_allow_ips: str = ""
    """Addresses of proxies, comma-separated, whose X-Forwarded-For is believed; `*`: of all. None unless set."""
