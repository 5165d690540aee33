"""The stage reserve.

Its stock is a setting, so that the example needs no database. `functions/store` of the first pipeline has one.
"""

import json
import os

from milepost import stage

from functions.payloads import BackOrdered, Item, Reserved

STOCK: dict[str, int] = json.loads(os.environ.get("STOCK", "{}"))
"""How many of each item are in stock."""


def reserve(item: Item) -> Reserved | BackOrdered:
    """Reserve an item, or say how many are missing."""
    missing = item.quantity - STOCK.get(item.name, 0)
    if missing > 0:
        return BackOrdered(customer=item.customer, name=item.name, missing=missing)
    return Reserved(customer=item.customer, name=item.name, quantity=item.quantity)


main = stage(reserve, inline=True)
