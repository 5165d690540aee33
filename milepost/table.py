"""The `stages:` table of helm/values.yaml: the only list of stages there is."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from milepost.errors import ConfigurationError

VALUES = Path("helm/values.yaml")


class Entry(BaseModel):
    """One stage of the table. The chart reads more of an entry than is needed here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    consumes: str
    emits: str | None = None
    env: dict[str, str] = {}
    delivery: dict[str, Any] = {}


def read(project: Path) -> list[Entry]:
    """The stages of the project in this folder. Raises ConfigurationError, naming the entry and the fault."""
    path = project / VALUES
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: not found; run this in the project's folder") from None
    except yaml.YAMLError as fault:
        raise ConfigurationError(f"{path}: not YAML: {fault}") from None
    stages = values.get("stages") if isinstance(values, dict) else None
    if not isinstance(stages, dict) or not stages:
        raise ConfigurationError(f"{path}: has no `stages:` table")
    entries = [_entry(path, name, fields) for name, fields in stages.items()]
    emitters: dict[str, str] = {}
    for entry in entries:
        if entry.emits is None:
            continue
        if entry.emits in emitters:
            raise ConfigurationError(f"{path}: {entry.emits} is emitted by {emitters[entry.emits]} and {entry.name}")
        emitters[entry.emits] = entry.name
    return entries


def _entry(path: Path, name: str, fields: Any) -> Entry:
    try:
        return Entry.model_validate({**(fields or {}), "name": name})
    except (TypeError, ValidationError) as fault:
        raise ConfigurationError(f"{path}: stages.{name}: {fault}") from None
