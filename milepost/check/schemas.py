"""Find values that an older JSON schema of a payload took and a newer one refuses.

It compares the keywords that pydantic writes. Rules in a validator's code are in no schema: events show them. A field
that is new and optional is compatible, and so is a field that goes: payload classes ignore fields they do not name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
EXACT = ("pattern", "format", "multipleOf", "uniqueItems")

Schema = Any
"""A JSON schema: an object, or a boolean."""


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A field that takes less than it took, such as `place.lat`, and how."""

    field: str
    fault: str


@dataclass(frozen=True)
class Comparison:
    """Both documents' schemas by name, for references."""

    old: Mapping[str, Schema]
    new: Mapping[str, Schema]

    def narrowed(self, old: Schema, new: Schema) -> list[Narrowed]:
        """Return the fields in which `new` refuses values that `old` took, each at least once."""
        return list(dict.fromkeys(self._narrowed("", old, new, frozenset())))

    def _narrowed(self, field: str, old: Schema, new: Schema, seen: frozenset[tuple[str, str]]) -> Iterator[Narrowed]:
        names = (_reference(old), _reference(new))
        if all(names):
            if names in seen:
                return  # classes that hold themselves
            seen |= {names}
        before, after = _resolved(old, self.old), _resolved(new, self.new)
        choices, allowed = _choices(before), _choices(after)
        if len(choices) > 1 or len(allowed) > 1:
            for choice in choices:
                faults = [list(self._narrowed(field, choice, one, seen)) for one in allowed]
                if all(faults):
                    # The choice of the same type says best what is wrong; else none of that type is left.
                    same = [found for found, one in zip(faults, allowed, strict=True) if self._same_type(choice, one)]
                    yield from same[0] if len(same) == 1 else [Narrowed(field, f"takes no {self._name(choice)} now")]
            return
        yield from self._one(field, before, after, seen)

    def _one(
        self, field: str, old: dict[str, Any], new: dict[str, Any], seen: frozenset[tuple[str, str]]
    ) -> Iterator[Narrowed]:
        values = _values(new)
        if values is not None:
            before = _values(old)
            gone = [value for value in before if value not in values] if before is not None else None
            if gone or gone is None:
                yield Narrowed(
                    field, f"takes only {_list(values)} now" if gone is None else f"refuses {_list(gone)} now"
                )
            return
        kind, was = new.get("type"), old.get("type") or _type_of_values(old)
        if kind is not None and kind != was and (was, kind) != ("integer", "number"):
            yield Narrowed(field, f"was {was or 'any type'}, is {kind} now")
            return
        if _values(old) is not None:
            return  # single values of that type: bounds are not compared
        for keyword, tighter in [*((name, True) for name in LEAST), *((name, False) for name in MOST)]:
            limit, before = new.get(keyword), old.get(keyword)
            if limit is not None and (before is None or (limit > before if tighter else limit < before)):
                yield Narrowed(field, f"has {keyword} {limit} now" + (f", had {before}" if before is not None else ""))
        for keyword in EXACT:
            if new.get(keyword) and new[keyword] != old.get(keyword):
                yield Narrowed(field, f"has {keyword} {new[keyword]} now")
        yield from self._fields(field, old, new, seen)
        yield from self._items(field, old, new, seen)

    def _fields(
        self, field: str, old: dict[str, Any], new: dict[str, Any], seen: frozenset[tuple[str, str]]
    ) -> Iterator[Narrowed]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in new.get("required", ()):
            if name not in old.get("required", ()):
                yield Narrowed(_below(field, name), "is required now")
        for name in after.keys() & before.keys():
            yield from self._narrowed(_below(field, name), before[name], after[name], seen)
        others = new.get("additionalProperties", True)
        if others is False:
            gone = sorted(before.keys() - after.keys())
            for name in gone:
                yield Narrowed(_below(field, name), "is refused now")
            if old.get("additionalProperties", True) is not False and not gone:
                yield Narrowed(field, "refuses fields that it does not name now")
        elif isinstance(others, dict) and old.get("type") == "object":
            yield from self._narrowed(_below(field, "*"), old.get("additionalProperties", True), others, seen)

    def _items(
        self, field: str, old: dict[str, Any], new: dict[str, Any], seen: frozenset[tuple[str, str]]
    ) -> Iterator[Narrowed]:
        before, after = old.get("prefixItems", ()), new.get("prefixItems", ())
        for place, item in enumerate(after):
            was = before[place] if place < len(before) else old.get("items", True)
            yield from self._narrowed(_below(field, str(place)), was, item, seen)
        if "items" in new:
            others = [] if old.get("maxItems", len(before) + 1) <= len(before) else [old.get("items", True)]
            for was in [*before[len(after) :], *others]:
                yield from self._narrowed(_below(field, "*"), was, new["items"], seen)

    def _same_type(self, old: Schema, new: Schema) -> bool:
        return bool(_resolved(old, self.old).get("type") == _resolved(new, self.new).get("type"))

    def _name(self, schema: Schema) -> str:
        resolved = _resolved(schema, self.old)
        return str(resolved.get("title") or resolved.get("type") or "such value")


def _reference(schema: Schema) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2] if isinstance(schema, dict) else ""


def _resolved(schema: Schema, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    """Return the schema, the schema that it refers to, and the parts of `allOf` in one object."""
    if not isinstance(schema, dict):
        return {} if schema else {"enum": []}
    made: dict[str, Any] = {}
    if name := _reference(schema):
        made |= _resolved(schemas.get(name, True), schemas)
    for part in schema.get("allOf", ()):
        made |= _resolved(part, schemas)
    return made | {keyword: value for keyword, value in schema.items() if keyword not in {"$ref", "allOf"}}


def _choices(schema: dict[str, Any]) -> list[Schema]:
    """The alternatives of a schema; a list of types is one of schemas. A schema without alternatives is its own."""
    for keyword in ("anyOf", "oneOf"):
        if schema.get(keyword):
            around = {name: value for name, value in schema.items() if name not in {keyword, "title", "default"}}
            return [{**around, "allOf": [one]} if around else one for one in schema[keyword]]
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": kind} for kind in schema["type"]]
    return [schema]


def _values(schema: dict[str, Any]) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _type_of_values(schema: dict[str, Any]) -> str | None:
    kinds = {type(value) for value in _values(schema) or ()}
    names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return names.get(kinds.pop()) if len(kinds) == 1 else None


def _below(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _list(values: list[Any]) -> str:
    return ", ".join(map(repr, values[:5])) + (" …" if len(values) > 5 else "")
