"""JSON schemas compared: what is narrower is found with its field, and what takes as much or more is not."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, create_model

from milepost.check.schemas import Comparison

NARROWER: list[tuple[Any, Any]] = [
    (int | None, int),
    (float, int),
    (str, int),
    (str, AwareDatetime),
    (str, Literal["a", "b"]),
    (Literal["a", "b", "c"], Literal["a", "b"]),
    (Literal["a"], Literal["b"]),
    (Any, str),
    (str | int, str),
    (list[Any], list[str]),
    (list[int | str], list[int]),
    (list[int], Annotated[list[int], Field(max_length=3)]),
    (list[int], tuple[str, int]),
    (dict[str, float], dict[str, int]),
    (dict[str, Any], dict[str, str]),
    (str, Annotated[str, Field(max_length=9)]),
    (Annotated[str, Field(max_length=9)], Annotated[str, Field(max_length=8)]),
    (str, Annotated[str, Field(pattern="^a")]),
    (float, Annotated[float, Field(gt=0)]),
    (Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]),
]
AS_WIDE: list[tuple[Any, Any]] = [
    (int, int | None),
    (int, float),
    (AwareDatetime, str),
    (Literal["a"], str),
    (Literal["a"], Literal["a", "b"]),
    (Literal[1, 2], int),
    (str, Any),
    (int, str | float),
    (list[int], list[float]),
    (tuple[int, int], list[int]),
    (dict[str, int], dict[str, float]),
    (Annotated[str, Field(max_length=8)], Annotated[str, Field(max_length=9)]),
    (Annotated[int, Field(ge=1)], Annotated[int, Field(ge=0)]),
    (Annotated[int, Field(ge=1)], int),
]


def narrowed(old: Any, new: Any) -> set[str]:
    schemas = [TypeAdapter(kind).json_schema() for kind in (old, new)]
    comparison = Comparison(*(schema.get("$defs", {}) for schema in schemas))
    return {found.field for found in comparison.narrowed(*schemas)}


@pytest.mark.parametrize(("old", "new"), NARROWER)
def test_narrower_types_are_found_in_a_nested_field(old: Any, new: Any) -> None:
    assert any(field.startswith("inner.value") for field in narrowed(nested(old), nested(new)))


@pytest.mark.parametrize(("old", "new"), [*AS_WIDE, *((kind, kind) for pair in NARROWER for kind in pair)])
def test_types_that_take_as_much_are_compatible(old: Any, new: Any) -> None:
    assert narrowed(nested(old), nested(new)) == set()


def nested(kind: Any) -> type[BaseModel]:
    return create_model("Outer", inner=create_model("Inner", value=(kind, ...)))


class Tree(BaseModel):
    children: list["Tree"] = []


class LabelledTree(BaseModel):
    children: list["LabelledTree"] = []
    label: str


def test_a_class_that_holds_itself_is_compared_once() -> None:
    assert narrowed(Tree, Tree) == set()
    assert narrowed(Tree, LabelledTree) == {"label"}


def test_fields_required_refused_and_free() -> None:
    old = create_model("Old", a=(int, ...), b=(int, 1))
    assert narrowed(old, create_model("New", a=(int, ...), b=(int, ...))) == {"b"}
    assert narrowed(old, create_model("New", a=(int, 2), c=(int, 3))) == set()
    assert narrowed(old, create_model("New", __config__={"extra": "forbid"}, a=(int, ...))) == {"b"}
