"""Each stage alone."""

from pathlib import Path
from typing import ClassVar

import pytest
from milepost.testing import example, load, run, run_all
from milepost.testing.contract import StageContract

from functions.payloads import BackOrdered, Item, Line, Order, Reserved

PROJECT = Path(__file__).parents[1]
unpack = load(PROJECT / "functions" / "unpack" / "main.py")


def test_each_line_of_an_order_becomes_an_item() -> None:
    order = Order(customer="ada", lines=(Line(name="pen", quantity=2), Line(name="ink", quantity=5)))
    assert run_all(unpack, order) == [
        Item(customer="ada", name="pen", quantity=2),
        Item(customer="ada", name="ink", quantity=5),
    ]


def test_item_is_reserved_if_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCK", '{"pen": 2}')
    reserve = load(PROJECT / "functions" / "reserve" / "main.py")
    for name, quantity, missing in (("pen", 2, 0), ("pen", 5, 3), ("ink", 1, 1)):
        answer = run(reserve, Item(customer="ada", name=name, quantity=quantity))
        if missing:
            assert answer == BackOrdered(customer="ada", name=name, missing=missing)
        else:
            assert answer == Reserved(customer="ada", name=name, quantity=quantity)


class TestUnpack(StageContract):
    stage = "unpack"
    consumes = "order"
    emits = "item"
    split = True
    data = example(Order)
    invalid: ClassVar = [({"customer": "ada", "lines": []}, "lines")]


class TestReserve(StageContract):
    stage = "reserve"
    consumes = "item"
    emits: ClassVar = ["reserved", "back-ordered"]
    data = example(Item)
    answers: ClassVar = {"back-ordered": example(Item)}
    invalid: ClassVar = [({"customer": "", "name": "pen", "quantity": 1}, "customer")]
