"""The vocabulary of this pipeline: one payload class per channel."""

from typing import Annotated

from milepost import Payload
from pydantic import BaseModel, ConfigDict, Field

Customer = Annotated[str, Field(min_length=1, max_length=100, examples=["ada"])]
Name = Annotated[str, Field(min_length=1, max_length=100, examples=["pen"])]
Quantity = Annotated[int, Field(ge=1, examples=[2])]


class Line(BaseModel):
    """One line of an order."""

    model_config = ConfigDict(frozen=True)

    name: Name
    quantity: Quantity


class Order(Payload, channel="order"):
    """An order of a customer."""

    customer: Customer
    lines: tuple[Line, ...] = Field(min_length=1, max_length=256)


class Item(Payload, channel="item"):
    """One line of an order, by itself."""

    customer: Customer
    name: Name
    quantity: Quantity


class Reserved(Payload, channel="reserved"):
    """An item that is in stock, for the warehouse to send."""

    customer: Customer
    name: Name
    quantity: Quantity


class BackOrdered(Payload, channel="back-ordered"):
    """An item of which there are too few, for the supplier."""

    customer: Customer
    name: Name
    missing: Quantity
