"""What the assistant may look up. A model is told the names, the types and the docstrings."""

from __future__ import annotations

from typing import Any, Literal

from shop.models import Order

DELIVERY_DAYS = {"Austria": "1 to 2", "Germany": "2 to 3", "Italy": "3 to 5", "Slovenia": "2 to 4"}


def find_order(order_number: str, customer_id: int) -> dict[str, Any]:
    """Looks up an order: what was bought, when, and where the parcel is.

    Args:
        order_number: As it stands on the invoice, such as T-1042.
        customer_id: Whose orders may be seen. The chat knows it; no model can set it.
    """
    orders = Order.objects.filter(customer=customer_id)
    order = orders.filter(number__iexact=order_number.strip()).first()
    if order is None:
        numbers = list(orders.values_list("number", flat=True))
        return {"found": False, "orders_of_this_customer": numbers}
    return {
        "number": order.number,
        "item": order.item,
        "ordered_on": order.ordered_on.isoformat(),
        "state": order.get_state_display(),
        "sent_to": order.country,
    }


def delivery_days(country: Literal["Austria", "Germany", "Italy", "Slovenia"]) -> str:
    """Tells how many working days a parcel takes.

    Args:
        country: Where it goes. To others nothing is sent.
    """
    return f"{DELIVERY_DAYS[country]} working days"
