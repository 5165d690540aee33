"""Comparison of JSON schemas: narrower fields are found and named, equal and wider ones are not."""

from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, create_model

from milepost.check.schemas import Comparison


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    age: int = 0


class Puppy(BaseModel):
    kind: Literal["dog"]
    age: int


class Texts(BaseModel):
    value: str = ""


class Fruit(Enum):
    APPLE = "apple"
    PEAR = "pear"


CAT_OR_DOG = Annotated[Cat | Dog, Field(discriminator="kind")]
CAT_OR_PUPPY = Annotated[Cat | Puppy, Field(discriminator="kind")]

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
    (Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]),
    (Annotated[int, Field(le=5)], Annotated[int, Field(lt=5)]),
    (Annotated[int, Field(multiple_of=2)], Annotated[int, Field(multiple_of=4)]),
    (Literal["a", "long"], Annotated[str, Field(max_length=3)]),
    (Literal["a", "b"], Annotated[str, Field(pattern="^a")]),
    (Literal[1, 9], Annotated[int, Field(le=5)]),
    (dict[str, int], dict[Literal["a"], int]),
    (dict[Literal["a", "b"], int], dict[Literal["a"], int]),
    (dict[str, int], dict[Annotated[str, Field(pattern="^a")], int]),
    (dict[Annotated[str, Field(pattern="^a")], float], dict[Annotated[str, Field(pattern="^a")], int]),
    (dict[str, int], Texts),
    (CAT_OR_DOG, Cat),
    (CAT_OR_DOG, CAT_OR_PUPPY),
    (list[Dog], list[Puppy]),
    (Fruit, Literal["apple"]),
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
    (Annotated[int, Field(ge=1)], Annotated[int, Field(gt=0)]),
    (Annotated[int, Field(gt=0)], Annotated[int, Field(ge=1)]),
    (Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)]),
    (Annotated[float, Field(le=5)], Annotated[float, Field(lt=6)]),
    (Annotated[float, Field(multiple_of=0.2)], Annotated[float, Field(multiple_of=0.1)]),
    (str, Annotated[str, Field(min_length=0)]),
    (Literal["a", "b"], Annotated[str, Field(max_length=3, pattern=r"^\p{L}")]),
    (Literal[2, 4], Annotated[int, Field(multiple_of=2, gt=1)]),
    (list[int], set[int]),
    (dict[Literal["a"], int], dict[str, int]),
    (dict[Annotated[str, Field(pattern="^a")], int], dict[str, int]),
    (Cat, CAT_OR_DOG),
    (CAT_OR_DOG, Cat | Dog),
    (Cat, dict[str, Any]),
    (Literal["apple"], Fruit),
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
