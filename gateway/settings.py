"""The gateway's settings."""

from pydantic import Field

from milepost.settings import JournalSettings


class GatewaySettings(JournalSettings):
    """Where to listen, and the journal. Each field is an environment variable of its name."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    """0: any free one."""
