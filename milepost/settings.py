"""Settings shared by whatever talks to Redis. Read once, at the edge, and handed in."""

import re
from datetime import timedelta
from typing import Annotated, Any, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from milepost.errors import ConfigurationError

TLS_OPTIONS: dict[str, set[str] | None] = {
    "ssl_ca_certs": None,
    "ssl_ca_path": None,
    "ssl_certfile": None,
    "ssl_keyfile": None,
    "ssl_password": None,
    "ssl_cert_reqs": {"none", "optional", "required"},
    "ssl_check_hostname": {"true", "false", "yes", "no", "1", "0"},
}
"""Options that a `rediss://` URL may have, and their values where they are few. Others of redis-py's would undo what
Milepost relies on, such as `decode_responses`, or its time-outs.
"""


def usable(secret: SecretStr) -> SecretStr:
    """Check a Redis URL. Raises ValueError, whose text holds nothing of the URL but names of options."""
    try:
        url = urlsplit(secret.get_secret_value())
        port_is_sound = url.port is None or url.port > 0
    except ValueError:
        port_is_sound = False
    # After an unencoded / ? or # in a password, the rest of it and the @ are not where the host is looked for.
    if not port_is_sound or "@" in url.path + url.query or url.fragment or not url.hostname:
        raise ValueError(
            "must look like redis://[user:password@]host:port, or rediss:// for TLS; percent-encode everything but "
            "letters and digits in user and password (@ as %40, / as %2F, # as %23)"
        )
    if url.scheme not in {"redis", "rediss"}:
        raise ValueError("must look like redis://[user:password@]host:port, or rediss:// for TLS")
    options = parse_qs(url.query, keep_blank_values=True)
    if url.path.strip("/") not in {"", "0"} or "db" in options:
        raise ValueError("must name database 0: pub/sub ignores databases, so one Milepost needs one Redis server")
    for name, values in options.items():
        if url.scheme != "rediss" or name not in TLS_OPTIONS:
            known = f"only {', '.join(TLS_OPTIONS)}" if url.scheme == "rediss" else "no options"
            raise ValueError(f"cannot have the option {name}: {url.scheme}:// takes {known}")
        allowed = TLS_OPTIONS[name]
        if len(values) != 1 or (allowed and values[0] not in allowed) or not values[0]:
            raise ValueError(f"option {name}: must have one value" + (f" of {sorted(allowed)}" if allowed else ""))
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
