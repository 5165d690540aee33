"""Put one more stage into YAML files that people keep, without changing anything else in them.

A YAML parser says where things are; the new lines go behind them as text. Each function returns the file's new text,
and raises ConfigurationError for a file that is laid out in another way.
"""

import re
from collections.abc import Sequence
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, SequenceNode

from milepost.errors import ConfigurationError


def stages_table(text: str, name: str, consumes: str, emits: Sequence[str], *, order: str | bool = False) -> str:
    """Add an entry to the end of `stages:` in helm/values.yaml."""
    stages = _at(yaml.compose(text), "stages")
    if not isinstance(stages, MappingNode) or stages.flow_style or not stages.value:
        raise ConfigurationError("has no `stages:` with a line for each stage; write the entry yourself")
    key, fields = stages.value[-1]
    column = key.start_mark.column
    inner = fields.start_mark.column if isinstance(fields, MappingNode) and not fields.flow_style else 2 * column
    entry = [f"{' ' * column}{_scalar(name)}:", f"{' ' * inner}consumes: {_scalar(consumes)}"]
    written = _scalar(emits[0]) if len(emits) == 1 else f"[{', '.join(map(_scalar, emits))}]"
    entry += [f"{' ' * inner}emits: {written}"] if emits else []
    entry += [f"{' ' * inner}order: {'true' if order is True else _scalar(order)}"] if order else []
    made = _after(text, _last_line(fields), entry)
    wanted = yaml.safe_load(text)
    wanted["stages"][name] = {"consumes": consumes}
    if emits:
        wanted["stages"][name]["emits"] = emits[0] if len(emits) == 1 else list(emits)
    if order:
        wanted["stages"][name]["order"] = order
    if yaml.safe_load(made) != wanted:
        raise ConfigurationError("is laid out in a way that the stage cannot be put in; write the entry yourself")
    return made


def skaffold(text: str, name: str, like: str) -> str:
    """Add an image, and its reference for the chart, to skaffold.yaml, after and like those of the stage `like`."""
    root, lines = yaml.compose(text), text.splitlines()
    templates = [pair for node in _mappings(root) for pair in node.value if pair[0].value == f"stages.{like}.image"]
    used = {name for _, value in templates for name in re.findall(r"\.IMAGE_[A-Z_]+_([a-z0-9_]+)", str(value.value))}
    artifacts = _at(root, "build", "artifacts")
    images = [
        (artifact, str(image.value))
        for artifact in (artifacts.value if isinstance(artifacts, SequenceNode) else [])
        if (image := _at(artifact, "image")) and _in_template(image.value) in used
    ]
    if len(templates) != 1 or len(images) != 1 or not re.search(rf"\b{re.escape(like)}$", images[0][1]):
        raise ConfigurationError(f"has no image like that of {like}; write {name}'s yourself")
    ((artifact, old),) = images
    new = old.removesuffix(like) + name
    # Not every such word: a stage may be called as a folder of the library, or as one in the image. One pass over each
    # line, because the new name may contain the old one.
    alone = rf"(?:image: +[\"']?{re.escape(old.removesuffix(like))}|: [\"']?)(?={re.escape(like)}[\"']?\s*(?:$|[,}}#]))"
    place = re.compile(rf"({alone}|functions/|requirements/|build\.sh |[-=]){re.escape(like)}(?![a-z0-9-])")
    entry = [place.sub(rf"\g<1>{name}", line) for line in lines[artifact.start_mark.line : _last_line(artifact) + 1]]
    entry = [re.sub(r"&\w+ ", "", line) for line in entry]  # an anchor is defined once
    at = templates[0][0].start_mark.line
    key, value = lines[at].split(": ", 1)
    key = key.replace(f"stages.{like}.", f"stages.{name}.")
    made = _after(text, at, [f"{key}: {value.replace(_in_template(old), _in_template(new))}"])
    made = _after(made, _last_line(artifact), entry)
    if [one.get("image") for one in yaml.safe_load(made)["build"]["artifacts"]].count(new) != 1:
        raise ConfigurationError(f"is laid out in a way that {name}'s image cannot be put in; write it yourself")
    return made


def _in_template(image: str) -> str:
    """Return an image's name as Skaffold has it in templates."""
    return re.sub(r"[^a-z0-9]", "_", image)


def _at(node: Node | None, *keys: str) -> Node | None:
    """Return the node under these keys, or None."""
    for wanted in keys:
        pairs = node.value if isinstance(node, MappingNode) else []
        node = next((value for key, value in pairs if key.value == wanted), None)
    return node


def _mappings(node: Any) -> list[MappingNode]:
    """Return every mapping in this node, itself included."""
    if isinstance(node, MappingNode):
        return [node, *(found for _, value in node.value for found in _mappings(value))]
    return [found for item in node.value for found in _mappings(item)] if isinstance(node, SequenceNode) else []


def _last_line(node: Node) -> int:
    """Return the number of the node's last line. The end mark of a block is where the next token begins."""
    if isinstance(node, CollectionNode) and not node.flow_style:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.line)


def _after(text: str, line: int, new: list[str]) -> str:
    lines = text.splitlines()
    return "\n".join([*lines[: line + 1], *new, *lines[line + 1 :]]) + "\n"


def _scalar(text: str) -> str:
    """Write a YAML scalar that every parser reads as this string."""
    plain = re.fullmatch(r"[A-Za-z][\w:./-]*(?<!:)", text) and text.lower() not in {"y", "n"}
    return text if plain and yaml.safe_load(text) == text else f'"{text}"'
