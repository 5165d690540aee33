"""Settings of every component that uses Redis, read once from the environment, and REDIS_URL in each of its forms."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

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
"""Options of a URL with TLS, with their values if they are few. Other options of redis-py are refused, because some
change replies or time-outs that Milepost relies on, such as `decode_responses`.
"""

SENTINEL_OPTIONS: dict[str, set[str] | None] = {"sentinel_username": None, "sentinel_password": None}
"""Options of a URL that names Sentinels: user and password of the Sentinels, if these are not those of Redis."""

FORMS = (
    "must look like redis://[user:password@]host:port, unix:///path, "
    "redis+sentinel://[user:password@]host:port,host:port/SERVICE or redis+cluster://host:port,host:port, with rediss "
    "for TLS; percent-encode everything but letters and digits in user and password (@ as %40, / as %2F, # as %23)"
)

_URL = re.compile(
    r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^/?#]*)@)?(?P<hosts>[^/?#@]*)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?",
    re.IGNORECASE,
)
_HOST = re.compile(r"(?P<host>\[[0-9a-f:.]+(?:%\w+)?\]|[^\s\[\]:,@]+)(?::(?P<port>[0-9]{1,5}))?", re.IGNORECASE)

PORT, SENTINEL_PORT = 6379, 26379
"""Ports of a server and of a Sentinel for which the URL names none."""

Kind = Literal["server", "sentinel", "cluster"]


class ServerAddress(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True)
class RedisUrl:
    """A URL, read. `servers`: one Redis, the Sentinels, or some nodes of a Cluster; none for a socket file."""

    kind: Kind
    servers: Sequence[ServerAddress]
    service: str
    plain: str = field(repr=False)
    """A URL for redis-py with the same user, password and options, of the first server."""
    sentinel: Mapping[str, str] = field(repr=False)
    """`username` and `password` of the Sentinels, if they have their own."""


def usable(secret: SecretStr) -> SecretStr:
    """Check a Redis URL. Raises ValueError, whose text holds nothing of the URL but names of options."""
    read_redis_url(secret.get_secret_value())
    return secret


class JournalSettings(BaseSettings):
    """Where Redis is and how long things are kept there. Each field is an environment variable of its name."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    redis_url: Annotated[SecretStr, AfterValidator(usable)] = SecretStr("redis://127.0.0.1:6379/0")
    dedup: timedelta = Field(timedelta(hours=1), gt=timedelta(0))
    """How long an event that is published again is recognised, by its source and id."""
    deadline: timedelta = Field(timedelta(hours=24), gt=timedelta(0))
    """How long after its journaling on a channel a failing event is tried; checked only when a delivery fails."""
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


def read_redis_url(text: str) -> RedisUrl:
    """Read a URL. Raises ValueError, whose text holds nothing of the URL but names of options."""
    found = _URL.fullmatch(text.strip())
    # After an unencoded / ? or # in a password, the rest of it and the @ are not where the host is looked for.
    if (
        found is None
        or "@" in (found["path"] or "") + (found["query"] or "")
        or re.search(r"[\[\]\t\r\n]", found["user"] or "")
    ):
        raise ValueError(FORMS)
    scheme, path = found["scheme"].lower(), (found["path"] or "").strip("/")
    base, _, behind = scheme.partition("+")
    kinds: Mapping[str, Kind] = {"": "server", "sentinel": "sentinel", "cluster": "cluster"}
    kind = kinds.get(behind, "server")
    servers: list[ServerAddress] = []
    if scheme == "unix":
        is_sound = bool(path) and not found["hosts"]
    else:
        servers = [_server(host, SENTINEL_PORT if kind == "sentinel" else PORT) for host in found["hosts"].split(",")]
        is_sound = base in {"redis", "rediss"} and behind in kinds and (kind != "server" or len(servers) == 1)
    if not is_sound:
        raise ValueError(FORMS)
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise ValueError(f"must name the service after the Sentinels; {FORMS}")
    options = parse_qs(found["query"] or "", keep_blank_values=True)
    if options.pop("db", ["0"]) != ["0"] or (scheme != "unix" and path not in {"", "0"}):
        raise ValueError("must name database 0: pub/sub ignores databases, so one Milepost needs one Redis server")
    known = (TLS_OPTIONS if base == "rediss" else {}) | (SENTINEL_OPTIONS if kind == "sentinel" else {})
    _check(options, known, scheme)
    given = {name: values[0] for name, values in options.items()}
    sentinel = {name.removeprefix("sentinel_"): given.pop(name) for name in SENTINEL_OPTIONS if name in given}
    plain = _plain(base, found["user"], servers, found["path"], given)
    try:
        urlsplit(plain)  # as redis-py does; its fault may hold the password
    except ValueError:
        raise ValueError(FORMS) from None
    return RedisUrl(kind, servers, unquote(service), plain, sentinel)


def _server(text: str, port: int) -> ServerAddress:
    found = _HOST.fullmatch(text)
    if found is None or not 0 < int(found["port"] or port) < 65536:
        raise ValueError(FORMS)
    return ServerAddress(found["host"].strip("[]"), int(found["port"] or port))


def _check(options: Mapping[str, Sequence[str]], known: Mapping[str, set[str] | None], scheme: str) -> None:
    for name, values in options.items():
        if name not in known:
            takes = f"only {', '.join(known)}" if known else "no options"
            raise ValueError(f"cannot have the option {name}: {scheme}:// takes {takes}")
        allowed = known[name]
        if len(values) != 1 or (allowed and values[0] not in allowed) or not values[0]:
            raise ValueError(f"option {name}: must have one value" + (f" of {sorted(allowed)}" if allowed else ""))


def _plain(
    base: str, user: str | None, servers: Sequence[ServerAddress], path: str | None, options: Mapping[str, str]
) -> str:
    before = f"{user}@" if user else ""
    query = f"?{urlencode(options)}" if options else ""
    if not servers:
        return f"{base}://{before}{path}{query}"
    host, port = servers[0]
    return f"{base}://{before}{f'[{host}]' if ':' in host else host}:{port}/0{query}"
