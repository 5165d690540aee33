"""One more stage in files that people keep: text is put in, and nothing else of them changes.

Each function returns the file's new text. Raises ConfigurationError for a file that is laid out in another way.
"""

import re
import tomllib
from collections.abc import Sequence
from typing import Any

import yaml

from milepost.errors import ConfigurationError

_ARRAY = r"\[[^\[\]]*(?:\[[^\]]*\][^\[\]]*)*\]"
"""Of TOML, with brackets inside its strings."""


def table(text: str, name: str, consumes: str, emits: str | None) -> str:
    """helm/values.yaml with one more entry at the end of `stages:`."""
    lines = [f"{line}\n" for line in text.splitlines()]
    begin = next((number for number, line in enumerate(lines) if re.match(r"stages:\s*(#.*)?$", line)), None)
    if begin is None:
        raise ConfigurationError("has no `stages:` with a line for each stage; write the entry yourself")
    end = next((n for n, line in enumerate(lines) if n > begin and re.match("[^\\s#]", line)), len(lines))
    inside = [number for number in range(begin + 1, end) if re.match(r" +\S", lines[number])]
    if not inside:
        raise ConfigurationError("has no stage under `stages:`; write the entry yourself")
    first = next(lines[number] for number in inside if lines[number].lstrip()[0] != "#")
    indent = first[: len(first) - len(first.lstrip())]
    entry = [f"{indent}{_plain(name)}:", f"{indent * 2}consumes: {_plain(consumes)}"]
    entry += [f"{indent * 2}emits: {_plain(emits)}"] if emits else []
    lines.insert(inside[-1] + 1, "\n".join(entry) + "\n")
    made = "".join(lines)
    wanted = yaml.safe_load(text)
    wanted["stages"][name] = {"consumes": consumes, **({"emits": emits} if emits else {})}
    return _checked(made, yaml.safe_load(made), wanted)


def extras(text: str, name: str, requirement: str, stages: Sequence[str]) -> str:
    """pyproject.toml with an extra of the stage's name after those of `stages`, and in the extra `run`."""
    wanted = tomllib.loads(text)
    found = wanted["project"]["optional-dependencies"]
    if name in found:
        raise ConfigurationError(f"has an extra called {name} already")
    named = rf'^"?({"|".join(map(re.escape, stages))})"? *= *'
    ends = [match.end() for match in re.finditer(named + _ARRAY + r" *(#.*)?\n", text, re.MULTILINE)]
    if not ends:
        raise ConfigurationError(f"has no extra of a stage, such as {stages[0]}; write {name}'s yourself")
    made = f'{text[: max(ends)]}{name} = ["{requirement}"]\n{text[max(ends) :]}'
    found[name] = [requirement]
    together = re.search(rf"^run = .*[\[,]({'|'.join(map(re.escape, stages))})(?=[,\]])", made, re.MULTILINE)
    if together:
        made = f"{made[: together.end()]},{name}{made[together.end() :]}"
        last = rf"(?<=[\[,]){re.escape(together[1])}(?=[,\]])"
        found["run"] = [re.sub(last, f"{together[1]},{name}", one) for one in found["run"]]
    return _checked(made, tomllib.loads(made), wanted)


def skaffold(text: str, name: str, like: str) -> str:
    """skaffold.yaml with an image, and its reference for the chart, after and like those of the stage `like`."""
    named = re.compile(rf"(?<![a-z0-9]){re.escape(like)}(?![a-z0-9])")
    block = re.search(rf"^( +)- image: \S*-{re.escape(like)}\n(?:\1 +.*\n)*", text, re.MULTILINE)
    told = re.search(rf"^ +stages\.{re.escape(like)}\.image: .*\n", text, re.MULTILINE)
    if not block or not told:
        raise ConfigurationError(f"has no image like that of {like}; write {name}'s yourself")
    image = re.sub(r"&\w+ ", "", named.sub(name, block[0]))  # an anchor is defined once
    key, value = told[0].split(": ", 1)
    old, new = (f"_{stage.replace('-', '_')}}}}}" for stage in (like, name))  # as Skaffold names images in templates
    under = f"{named.sub(name, key)}: {value.replace(old, new)}"
    made = f"{text[: block.end()]}{image}{text[block.end() : told.end()]}{under}{text[told.end() :]}"
    names = [str(found["image"]).rpartition("/")[2] for found in yaml.safe_load(made)["build"]["artifacts"]]
    return _checked(made, len(names), len(set(names)))


def _plain(text: str) -> str:
    """A YAML scalar that every parser takes for this string."""
    plain = re.fullmatch(r"[A-Za-z][\w:./-]*(?<!:)", text) and text.lower() not in {"y", "n"}
    return text if plain and yaml.safe_load(text) == text else f'"{text}"'


def _checked(made: str, found: Any, wanted: Any) -> str:
    if found != wanted:
        raise ConfigurationError("is laid out in a way that the stage cannot be put in by itself; write it yourself")
    return made
