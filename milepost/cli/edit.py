"""Put one more stage into YAML files that people keep, without changing anything else in them.

A YAML parser says where things are; the new lines go behind them as text. Each function returns the file's new text,
and raises ConfigurationError for a file that is laid out in another way.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode
from yaml.tokens import AnchorToken, ScalarToken

from milepost.errors import ConfigurationError


def add_stage_row(text: str, name: str, consumes: str, emits: Sequence[str], *, order: str | bool = False) -> str:
    """Add a row to the end of `stages:` in helm/values.yaml."""
    stages = _at(yaml.compose(text), "stages")
    if not isinstance(stages, MappingNode) or stages.flow_style or not stages.value:
        raise ConfigurationError("has no `stages:` with a line for each stage; write the row yourself")
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
        raise ConfigurationError("is laid out in a way that the stage cannot be put in; write the row yourself")
    return made


def skaffold(text: str, name: str, like: str) -> str:
    """Add an image, and its reference for the chart, to skaffold.yaml, after and like those of the stage `like`."""
    root, wanted = yaml.compose(text), yaml.safe_load(text)
    key = f"stages.{like}.image"
    templates = [pair for node in _mappings(root) for pair in node.value if pair[0].value == key]
    used = {name for _, value in templates for name in re.findall(r"\.IMAGE_[A-Z_]+_([a-z0-9_]+)", str(value.value))}
    artifacts = _at(root, "build", "artifacts")
    images = [
        (place, artifact, str(image.value))
        for place, artifact in enumerate(artifacts.value if isinstance(artifacts, SequenceNode) else [])
        if (image := _at(artifact, "image")) and _in_template(image.value) in used
    ]
    if len(templates) != 1 or len(images) != 1 or not re.search(rf"\b{re.escape(like)}$", images[0][2]):
        raise ConfigurationError(f"has no image like that of {like}; write {name}'s yourself")
    (template,), ((place, artifact, old),) = templates, images
    rename = _Renaming(like, name, old, old.removesuffix(like) + name)

    line = template[0].start_mark.line
    made = _after(text, line, [rename.template(text.splitlines()[line])])
    made = _after(made, _last_line(artifact) + (line < artifact.start_mark.line), rename.block(text, artifact))

    wanted["build"]["artifacts"].insert(place + 1, rename.value(wanted["build"]["artifacts"][place]))
    for values in _dicts(wanted):
        if key in values:
            values[rename.template(key)] = rename.template(values[key])
            break
    try:
        is_right = yaml.safe_load(made) == wanted
    except yaml.YAMLError:
        is_right = False
    if not is_right:
        raise ConfigurationError(f"is laid out in a way that {name}'s image cannot be put in; write it yourself")
    return made


@dataclass(frozen=True)
class _Renaming:
    """Renames a stage, and its image, in the entry of that image.

    The stage's name stands for the stage where it is the whole value of a key, a word of a command (`build.sh email`,
    `STAGE=email`), and below functions/ and requirements/. Elsewhere it is something else: a stage may be called as a
    folder of the library, and `my-email` is a folder of its own.
    """

    stage: str
    new_stage: str
    image: str
    new_image: str

    def template(self, text: str) -> str:
        """Rename in an entry of setValueTemplates."""
        text = text.replace(f"stages.{self.stage}.image", f"stages.{self.new_stage}.image")
        old, new = _in_template(self.image), _in_template(self.new_image)
        return re.sub(rf"(\.IMAGE_[A-Z_]+_){old}\b", rf"\g<1>{new}", text)

    def value(self, found: Any, *, is_item: bool = False) -> Any:
        """Return the value with each text in it renamed."""
        if isinstance(found, dict):
            return {key: self.value(inner) for key, inner in found.items()}
        if isinstance(found, list):
            return [self.value(item, is_item=True) for item in found]
        return self.text(found, is_item=is_item) if isinstance(found, str) else found

    def text(self, text: str, *, is_item: bool) -> str:
        """Rename in one scalar, as it is written or as it is read."""
        words = re.split(r"([\s=,\"']+)", text)
        is_one_item = is_item and len([word for word in words[::2] if word]) == 1
        words[::2] = [word if is_one_item and word == self.stage else self._word(word) for word in words[::2]]
        return "".join(words)

    def _word(self, word: str) -> str:
        if word == self.image:
            return self.new_image
        if word == self.stage:
            return self.new_stage
        parts = word.split("/")
        for place, folder in enumerate(parts[:-1]):
            stem, dot, suffix = parts[place + 1].partition(".")
            if folder in {"functions", "requirements"} and stem == self.stage:
                parts[place + 1] = f"{self.new_stage}{dot}{suffix}"
        return "/".join(parts)

    def block(self, text: str, node: Node) -> list[str]:
        """Return the lines of a node, renamed. Anchors are left out: one is defined once."""
        are_items = {scalar.end_mark.index: is_item for scalar, is_item in _scalars(node)}
        lines = text.splitlines(keepends=True)
        begin, end = (sum(map(len, lines[:line])) for line in (node.start_mark.line, _last_line(node) + 1))
        block, last = "", begin
        for token in yaml.scan(text):
            start, stop = token.start_mark.index, token.end_mark.index
            if not begin <= start < end:
                continue
            if isinstance(token, AnchorToken):
                block, last = block + text[last:start], stop
            elif isinstance(token, ScalarToken) and stop in are_items:
                block, last = block + text[last:start] + self.text(text[start:stop], is_item=are_items[stop]), stop
        return (block + text[last:end]).splitlines()


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


def _dicts(value: Any) -> list[dict[str, Any]]:
    """Return every mapping in this value, itself included."""
    if isinstance(value, dict):
        return [value, *(found for inner in value.values() for found in _dicts(inner))]
    return [found for item in value for found in _dicts(item)] if isinstance(value, list) else []


def _scalars(node: Any, *, is_item: bool = False) -> list[tuple[ScalarNode, bool]]:
    """Return every scalar below this node but keys, and whether it is an item of a list."""
    if isinstance(node, MappingNode):
        return [found for _, value in node.value for found in _scalars(value)]
    if isinstance(node, SequenceNode):
        return [found for item in node.value for found in _scalars(item, is_item=True)]
    return [(node, is_item)]


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
