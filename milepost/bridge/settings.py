"""The settings of a bridge: its environment variables, and the stages in ROUTES."""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic.alias_generators import to_camel

from milepost.bridge.http.client import Client, split_url
from milepost.errors import ConfigurationError
from milepost.events.attributes import RESERVED
from milepost.graph import Order, check, distinct, several
from milepost.journal import BROKER
from milepost.settings import JournalSettings


def http_url(url: str) -> str:
    """Return the URL. Raises ValueError, whose text holds nothing of the URL, if no event can be POSTed to it."""
    split_url(url)
    return url


def from_environment(variables: Any) -> Any:
    """Header → the value of the variable that it names. Raises ValueError naming the variable, never its value."""
    if not isinstance(variables, Mapping):
        raise ValueError("must be an object: header to variable")  # noqa: TRY004 - pydantic reports ValueError
    found = {str(header): os.environ.get(str(variable), "").strip() for header, variable in variables.items()}
    for header, value in found.items():
        if not value:
            raise ValueError(f"{header} comes from the variable {variables[header]}, which is not set")
        try:
            Client("http://any", headers={header: value})
        except ConfigurationError as fault:
            raise ValueError(f"{variables[header]}: {str(fault).partition(': ')[2]}") from None
    return found


ValidUrl = Annotated[str, AfterValidator(http_url)]
ValidName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]


def not_reserved(channel: str) -> str:
    """Refuse a name that would be taken for a line of a submission's status."""
    if channel.startswith(RESERVED):
        raise ValueError(f"names that begin with {' or '.join(RESERVED)} are Milepost's own")
    return channel


ValidChannel = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\s{]\S*$"), AfterValidator(not_reserved)]


class DeliverySpec(BaseModel):
    """How a route is delivered to. Names and meaning are those of Knative's DeliverySpec, durations ISO 8601."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

    retry: int = Field(10, ge=0)
    """Most repeats after a delivery that failed (5xx)."""
    crash_retry: int = Field(50, ge=0)
    """Most repeats after a delivery that ended without a response."""
    backoff_policy: Literal["exponential", "linear"] = "exponential"
    backoff_delay: timedelta = Field(timedelta(seconds=0.2), gt=timedelta(0))
    timeout: timedelta = Field(timedelta(seconds=60), gt=timedelta(0))
    deadline: timedelta | None = Field(None, gt=timedelta(0))
    """DEADLINE for this stage alone; with `delay` it counts from the time that the event is due."""
    delay: timedelta = Field(timedelta(0), ge=timedelta(0))
    """How long an event waits from its first journaling until its first delivery."""
    batch: int = Field(1, ge=1, le=512)
    """Most events in one request, in batched content mode, for a stage that reads it. A Broker takes one."""


def wake_word(wake: Any) -> Any:
    """Read the YAML word `off`, which is a false in JSON."""
    return "off" if wake is False else wake


class Stage(DeliverySpec):
    """One stage. In direct mode the bridge needs its `url`; in broker mode only to wake it."""

    name: ValidName
    consumes: ValidChannel
    emits: Annotated[tuple[ValidChannel, ...], BeforeValidator(several), AfterValidator(distinct)] = ()
    split: bool = False
    """Whether it may give several answers to an event, each of which becomes an event; in direct mode alone."""
    order: Order = False
    """The field of the data by which its events are ordered, or `true` for `partitionkey`; in direct mode alone."""
    url: ValidUrl | None = None
    external: bool = False
    """Whether the stage is someone else's receiver, and not a function of the project."""
    headers_from: Annotated[dict[str, SecretStr], BeforeValidator(from_environment)] = {}
    """Headers of each request: name to the environment variable of the bridge that holds its value."""
    wake: Annotated[Literal["event", "off", "page"], BeforeValidator(wake_word)] = "event"
    """When it is woken: with an event for a stage before it; never; or also when a visitor opens the form."""
    wake_after: timedelta = Field(timedelta(seconds=30), gt=timedelta(0))
    """How long it must not have answered before it may be at zero. It is woken at most once in this time."""
    wake_delay: timedelta = Field(timedelta(0), ge=timedelta(0))
    """How long its wake-up waits, so that the stage that has the event starts first."""

    @property
    def can_be_woken(self) -> bool:
        """Whether it is a function of the project, and wake-ups are not off."""
        return self.url is not None and not self.external and self.wake != "off"


class BridgeSettings(JournalSettings):
    """Each field is an environment variable of its name; `ROUTES` is a JSON list of stages."""

    host: str = "0.0.0.0"  # noqa: S104 - in a pod, the pod's address
    port: int = Field(8080, ge=0, le=65535)
    routes: tuple[Stage, ...] = ()
    delivery: Literal["direct", "broker"] = "direct"
    k_sink: ValidUrl | None = None
    broker_timeout: timedelta = Field(timedelta(seconds=60), gt=timedelta(0))
    window: int = Field(512, ge=1)
    """Largest concurrency limit of a route, in events. Redeliveries do not wait for it."""
    window_bytes: int = Field(32_000_000, ge=1)
    """While the unsettled events of a route have this many bytes together, no more are read for it."""
    claim: timedelta = Field(timedelta(seconds=30), gt=timedelta(0))
    """How long a bridge may not renew its claim on an entry before another bridge takes the entry over."""
    lease: timedelta = Field(timedelta(seconds=10), gt=timedelta(0))
    grace: timedelta = Field(timedelta(seconds=4), ge=timedelta(0))
    """How long a clean stop waits for deliveries; the whole stop takes up to 1.5 times this and 2.5 s."""

    @property
    def needs_data(self) -> frozenset[str]:
        """The channels that functions of the project consume: they refuse an event without data."""
        return frozenset(stage.consumes for stage in self.routes if not stage.external)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not self.routes:
            raise ValueError("ROUTES: names no stage, so nothing would be delivered")
        names = [stage.name for stage in self.routes]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"ROUTES: {', '.join(sorted(twice))} named twice")
        try:
            check(self.routes)
        except ValueError as fault:
            raise ValueError(f"ROUTES: {fault}") from None
        if BROKER in names or "bridge" in names:
            raise ValueError("ROUTES: no stage can be called broker or bridge")
        if pointless := [stage.name for stage in self.routes if stage.split and not stage.emits]:
            raise ValueError(f"ROUTES: {', '.join(pointless)}: split, but emits nothing")
        if self.delivery == "direct":
            without = [stage.name for stage in self.routes if stage.url is None]
            if without:
                raise ValueError(f"ROUTES: {', '.join(without)}: url is missing")
        elif late := [stage.name for stage in self.routes if stage.delay]:
            raise ValueError(f"ROUTES: {', '.join(late)}: delay is for direct delivery; a Broker delivers at once")
        elif split := [stage.name for stage in self.routes if stage.split]:
            raise ValueError(f"ROUTES: {', '.join(split)}: split is for direct delivery; a Broker takes one reply")
        elif ordered := [stage.name for stage in self.routes if stage.order]:
            raise ValueError(f"ROUTES: {', '.join(ordered)}: order is for direct delivery; a Broker keeps none")
        return self
