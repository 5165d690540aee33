"""Settings of every component that uses Redis, read from the environment once, at the start."""

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
    """For each hop, from the first journaling; looked at only after a failed attempt."""
    backlog_limit: int = Field(1_000_000, gt=0)
    """Journaled, parked and dead events that served stages need, together; at this number doors answer 503."""
    replicas: int = Field(0, ge=0)
    """Replicas of Redis that must have an event before a door accepts it."""

    @classmethod
    def read(cls, **given: Any) -> Self:
        """Return the settings: from `given`, else from the environment.

        Raises ConfigurationError, which names each wrong variable and the fault, never the value.
        """
        try:
            return cls(**given)
        except SettingsError as fault:  # a value that must be JSON and is not
            name = re.search('field "(.*?)"', str(fault))
            raise ConfigurationError(f"{name[1].upper() if name else 'settings'}: must be JSON") from None
        except ValidationError as fault:
            raise ConfigurationError(
                "; ".join(
                    f"{'.'.join(map(str, error['loc'])).upper()}: {error['msg'].removeprefix('Value error, ')}"
                    for error in fault.errors(include_url=False, include_context=False, include_input=False)
                )
            ) from None
