"""The stage unpack."""

from collections.abc import Iterator

from milepost import stage

from functions.payloads import Item, Order


def unpack(order: Order) -> Iterator[Item]:
    """Make an item of each line of an order."""
    for line in order.lines:
        yield Item(customer=order.customer, name=line.name, quantity=line.quantity)


main = stage(unpack, inline=True)
