"""The stages together, around a real Redis and the real bridge."""

from pathlib import Path

import pytest
from milepost import Defer, stage
from milepost.testing import LocalPipeline, load

from functions.payloads import Item, Line, Order, Reserved

PROJECT = Path(__file__).parents[1]
FUNCTIONS = PROJECT / "functions"


def order(customer: str, *names: str) -> Order:
    return Order(customer=customer, lines=tuple(Line(name=name, quantity=1) for name in names))


async def test_items_of_an_order_are_reserved_or_back_ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCK", '{"pen": 1}')
    stages = [load(FUNCTIONS / name / "main.py") for name in ("unpack", "reserve")]
    async with LocalPipeline(*stages) as pipeline:
        event_id = await pipeline.publish(order("ada", "pen", "ink"))
        reserved = await pipeline.published("reserved", f"{event_id}/0")
        assert reserved.data == {"customer": "ada", "name": "pen", "quantity": 1}
        back_ordered = await pipeline.published("back-ordered", f"{event_id}/1")
        assert back_ordered.data == {"customer": "ada", "name": "ink", "missing": 1}


async def test_items_of_a_customer_stay_in_order_and_hold_up_no_other() -> None:
    """The first item is tried again until another customer's has been reserved."""
    reserved = []

    def reserve(item: Item) -> Reserved:
        if item.name == "first" and "other" not in reserved:
            raise Defer("come again", retry_after=1)
        reserved.append(item.name)
        return Reserved(customer=item.customer, name=item.name, quantity=item.quantity)

    unpack = load(FUNCTIONS / "unpack" / "main.py")
    ordered = {"unpack": "customer", "reserve": "customer"}
    async with LocalPipeline(unpack, stage(reserve, inline=True), order=ordered) as pipeline:
        await pipeline.publish(order("ada", "first", "second"))
        await pipeline.publish(order("ada", "third"))
        await pipeline.publish(order("bob", "other"))
        for _ in range(4):
            await pipeline.published("reserved")
    assert reserved == ["other", "first", "second", "third"]
