"""Settings shared by whatever talks to Redis. Read once, at the edge, and handed in."""

import re
from datetime import timedelta
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from milepost import redis_url
from milepost.errors import ConfigurationError


def usable(secret: SecretStr) -> SecretStr:
    """Check a Redis URL. Raises ValueError, whose text holds nothing of the URL but names of options."""
    redis_url.read(secret.get_secret_value())
    return secret


class JournalSettings(BaseSettings):
    """Where Redis is and how long things are kept there. Each field is an environment variable of its name."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    redis_url: Annotated[SecretStr, AfterValidator(usable)] = SecretStr("redis://127.0.0.1:6379/0")
    dedup: timedelta = Field(timedelta(hours=1), gt=timedelta(0))
    """How long a producer's retry is recognised."""
    deadline: timedelta = Field(timedelta(hours=24), gt=timedelta(0))
    """Per hop, from the first journaling; looked at only after a failed attempt."""
    backlog_limit: int = Field(1_000_000, gt=0)
    """Journaled, parked and dead events that served stages need, together; at this number doors answer 503."""
    replicas: int = Field(0, ge=0)
    """Replicas of Redis that must have an event before a door accepts it."""

    @classmethod
    def read(cls, **given: Any) -> Self:
        """From what is given, and else the environment.

        Raises ConfigurationError naming each variable, its fault, never its value.
        """
        try:
            return cls(**given)
        except SettingsError as fault:  # what is not JSON where JSON is due
            name = re.search('field "(.*?)"', str(fault))
            raise ConfigurationError(f"{name[1].upper() if name else 'settings'}: must be JSON") from None
        except ValidationError as fault:
            raise ConfigurationError(
                "; ".join(
                    f"{'.'.join(map(str, error['loc'])).upper()}: {error['msg'].removeprefix('Value error, ')}"
                    for error in fault.errors(include_url=False, include_context=False, include_input=False)
                )
            ) from None
