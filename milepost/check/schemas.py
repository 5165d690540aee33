"""Find values that an older JSON schema of a payload took and a newer one refuses.

It compares the keywords that pydantic writes. Some rules are in no schema: code of a validator, a decimal's digits, a
second alias, `strict`. Events show these. A field that is new and optional is compatible, and so is a field that goes:
payload classes ignore fields they do not name.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

LEAST = ("minLength", "minItems", "minProperties")
MOST = ("maxLength", "maxItems", "maxProperties")
EXACT = ("pattern", "format")

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
                    # The choice of the same type names the fault best; else none of that type is left.
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
        before = _values(old)
        if before is not None:
            if gone := [value for value in before if not _takes(new, value)]:
                yield Narrowed(field, f"refuses {_list(gone)} now")
            return
        for keyword in _tightened(old, new):
            had = f", had {old[keyword]}" if keyword in old else ""
            yield Narrowed(field, f"has {keyword} {new[keyword]} now{had}")
        yield from self._fields(field, old, new, seen)
        yield from self._items(field, old, new, seen)

    def _fields(
        self, field: str, old: dict[str, Any], new: dict[str, Any], seen: frozenset[tuple[str, str]]
    ) -> Iterator[Narrowed]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in new.get("required", ()):
            if name not in old.get("required", ()):
                yield Narrowed(_below(field, name), "is required now")
        any_name = _other_fields(old) if isinstance(_other_fields(old), dict) else None
        for name, schema in after.items():
            if (was := before.get(name, any_name)) is not None:
                yield from self._narrowed(_below(field, name), was, schema, seen)
        if (names := _names(new)) is not None:
            yield from self._narrowed(_below(field, "*"), _names(old) or {"type": "string"}, names, seen)
        others = _other_fields(new)
        if others is False:
            gone = sorted(before.keys() - after.keys())
            for name in gone:
                yield Narrowed(_below(field, name), "is refused now")
            if _other_fields(old) is not False and not gone:
                yield Narrowed(field, "refuses fields that it does not name now")
        elif isinstance(others, dict) and old.get("type") == "object":
            yield from self._narrowed(_below(field, "*"), _other_fields(old), others, seen)

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


def _other_fields(schema: dict[str, Any]) -> Schema:
    """The schema of the fields that an object does not name; of a dict with a pattern for its keys, of those."""
    return next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties", True))


def _names(schema: dict[str, Any]) -> Schema | None:
    """The schema of an object's keys; None if they are free."""
    patterns = [{"type": "string", "pattern": pattern} for pattern in schema.get("patternProperties", {})]
    return {"type": "string", **schema["propertyNames"]} if "propertyNames" in schema else next(iter(patterns), None)


def _tightened(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Yield the keywords of bounds, lengths, patterns and formats by which `new` takes less than `old`."""
    for names, sign in ((("minimum", "exclusiveMinimum"), 1), (("maximum", "exclusiveMaximum"), -1)):
        bound, before = _bound(new, names, sign), _bound(old, names, sign)
        if bound is not None and (before is None or bound > before):
            yield max((name for name in names if name in new), key=lambda name: (sign * new[name], name))
    yield from (name for name in LEAST if new.get(name, 0) > old.get(name, 0))
    yield from (name for name in MOST if name in new and (name not in old or new[name] < old[name]))
    yield from (name for name in EXACT if new.get(name) and new[name] != old.get(name))
    step = new.get("multipleOf")
    if step and ("multipleOf" not in old or Decimal(str(old["multipleOf"])) % Decimal(str(step))):
        yield "multipleOf"


def _bound(schema: dict[str, Any], names: tuple[str, str], sign: int) -> tuple[float, bool] | None:
    """The tightest bound, larger where it is tighter, and whether it is excluded. Integers have no excluded bound."""
    found = [(sign * schema[name], name.startswith("exclusive")) for name in names if name in schema]
    if schema.get("type") == "integer":
        found = [(bound + excluded, False) for bound, excluded in found]
    return max(found, default=None)


def _takes(schema: dict[str, Any], value: Any) -> bool:
    """Whether a single value is within the bounds, lengths and pattern of a schema of its type."""
    if isinstance(value, str):
        fits: bool = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        try:
            return fits and re.search(schema.get("pattern", ""), value) is not None
        except re.error:  # pydantic's patterns are Rust's
            return fits
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    single = {"type": schema.get("type"), "minimum": value, "maximum": value, "multipleOf": value}
    return not any(_tightened(single, schema))


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
