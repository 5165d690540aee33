"""Reads `stages:` in helm/values.yaml, which says which stages a project has, and how they are wired."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from milepost.errors import ConfigurationError
from milepost.graph import Emits, Order, check

VALUES = Path("helm/values.yaml")


class StageEntry(BaseModel):
    """The row of one stage. The chart reads further fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    name: str
    consumes: str
    emits: Emits = ()
    """The channels of its answers. It answers an event on one of them."""
    split: bool = False
    """Whether it may give several answers to an event."""
    order: Order = False
    """The field of the data by which its events are ordered, or `true` for `partitionkey`."""
    url: str | None = None
    """URL of a receiver that is someone else's; a stage without one is a function of the project."""
    headers_from: dict[str, Any] = Field({}, alias="headersFrom")
    """Headers for that receiver, on a cluster each from a key of a Secret; see `variables`."""
    mongo: bool = False
    env: dict[str, str] = {}
    files: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]] = {}
    """Variable → name of a file in the data folder of `milepost up`. On a cluster these variables are not set."""
    delivery: dict[str, Any] = {}

    @property
    def external(self) -> bool:
        """Whether the stage is someone else's receiver, and not a function of the project."""
        return self.url is not None

    @property
    def timeout(self) -> float:
        """Seconds that the bridge waits for the response. Raises ConfigurationError."""
        try:
            return TypeAdapter(timedelta).validate_python(self.delivery.get("timeout", 60)).total_seconds()
        except ValidationError:
            raise ConfigurationError(f"stage {self.name}: delivery.timeout must be a duration, as PT60S") from None

    @property
    def variables(self) -> dict[str, str]:
        """Header → the bridge's variable with its value. The chart makes the same name, HEADER_STAGE_HEADER."""
        return {
            header: re.sub("[^A-Z0-9]", "_", f"HEADER_{self.name}_{header}".upper()) for header in self.headers_from
        }

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.headers_from and not self.url:
            raise ValueError("headersFrom is for a url: a function of the project needs no secret of its sender")
        if self.split and not self.emits:
            raise ValueError("split: it emits nothing that could be several")
        return self


def read(project: Path) -> list[StageEntry]:
    """Read the stages of the project in this folder. Raises ConfigurationError, naming the row and the fault."""
    path = project / VALUES
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: not found; run this in the project's folder") from None
    except yaml.YAMLError as fault:
        raise ConfigurationError(f"{path}: not YAML: {fault}") from None
    stages = values.get("stages") if isinstance(values, dict) else None
    if not isinstance(stages, dict) or not stages:
        raise ConfigurationError(f"{path}: has no rows under `stages:`")
    entries = [_entry(path, name, fields) for name, fields in stages.items()]
    variables = [variable for entry in entries for variable in entry.variables.values()]
    for variable in {variable for variable in variables if variables.count(variable) > 1}:
        raise ConfigurationError(f"{path}: {variable} would hold two headers; rename a stage")
    try:
        check(entries)
    except ValueError as fault:
        raise ConfigurationError(f"{path}: {fault}") from None
    return entries


def _entry(path: Path, name: str, fields: Any) -> StageEntry:
    try:
        return StageEntry.model_validate({**(fields or {}), "name": name})
    except TypeError:
        raise ConfigurationError(f"{path}: stages.{name}: must be a mapping") from None
    except ValidationError as fault:  # its own text has the values too
        faults = [(".".join(map(str, error["loc"])), error["msg"]) for error in fault.errors()]
        told = "; ".join(": ".join(filter(None, (field, text.removeprefix("Value error, ")))) for field, text in faults)
        raise ConfigurationError(f"{path}: stages.{name}: {told}") from None
