"""Make an example of a payload from its class alone."""

from typing import Any, TypeVar

from pydantic import ValidationError

from milepost.errors import ConfigurationError
from milepost.events.payload import Payload

Found = TypeVar("Found", bound=Payload)

_OF_TYPE: dict[str, Any] = {"string": "text", "boolean": True, "object": {}, "array": [], "null": None}


def example(payload: type[Found]) -> Found:
    """Make a payload of this class. A field gets its first example, else its default, else a value of its type.

    Raises ConfigurationError if the class refuses the result, or refers to itself: then give its fields `examples`.
    """
    try:
        schema = payload.model_json_schema()
        return payload.model_validate(_made(schema, schema.get("$defs", {})))
    except ValidationError as fault:
        fields = ", ".join(".".join(map(str, error["loc"])) or "the class itself" for error in fault.errors())
    except RecursionError:
        fields = "the fields by which it refers to itself"
    except Exception as fault:  # noqa: BLE001 - the project's validators may raise anything
        raise ConfigurationError(f"{payload.__name__}: no example can be made: {type(fault).__name__}") from None
    raise ConfigurationError(f"{payload.__name__}: no example can be made; give Field(examples=[…]) to {fields}")


def _made(schema: dict[str, Any], defs: dict[str, Any]) -> Any:
    for name in ("examples", "enum"):
        if schema.get(name):
            return schema[name][0]
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return _made(schema[name][0], defs)
    if "$ref" in schema:
        return _made(defs[schema["$ref"].rpartition("/")[2]], defs)
    match schema.get("type"):
        case "object":
            return {name: _made(field, defs) for name, field in schema.get("properties", {}).items()}
        case "array":
            return [_made(schema.get("items", {}), defs)] * schema.get("minItems", 1)
        case "integer" | "number":
            return max(schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1)
        case kind:
            return _OF_TYPE.get(kind or "string")
