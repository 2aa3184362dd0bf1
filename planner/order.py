"""The order in which the ranks of a plan are numbered: which axis joins neighbours, and which joins distant ranks.

Devices of a node are neighbours, so that the order says which axis talks over which tier of the network.
"""

from typing import Any, Literal, get_args

import numpy as np

OrderName = Literal[
    "tp-cp-dp-pp", "tp-cp-pp-dp", "tp-pp-cp-dp", "pp-tp-cp-dp",
    "tp-dp-cp-pp", "tp-dp-pp-cp", "tp-pp-dp-cp", "pp-tp-dp-cp",
    "cp-dp-tp-pp", "cp-dp-pp-tp", "cp-pp-dp-tp", "pp-cp-dp-tp",
    "dp-cp-tp-pp", "dp-cp-pp-tp", "dp-pp-cp-tp", "pp-dp-cp-tp",
]  # fmt: skip
"""Axes from the innermost to the outermost, the usual order first. Those that part dp from cp by tp are left out: the
ranks that shard parameters together would be no neighbours within their stage."""
ORDER_NAMES: tuple[OrderName, ...] = get_args(OrderName)
"""Orders, by their codes in a grid's column."""
USUAL_ORDER: OrderName = ORDER_NAMES[0]
"""Megatron-Core's default, tp-cp-ep-dp-pp; with --use-tp-pp-dp-mapping it is the second one."""

_AXES = ("tp", "cp", "dp", "pp")
_IS_INSIDE = {
    (one, other): np.array([int(name.split("-").index(one) < name.split("-").index(other)) for name in ORDER_NAMES])
    for one in _AXES
    for other in _AXES
}
"""(axis, other axis) -> 1 where the first lies inside the second, else 0, by code: the power to raise a degree to."""


def order_code(order: Any) -> Any:
    """The code of an order's name; codes stay what they are."""
    return ORDER_NAMES.index(order) if isinstance(order, str) else order


def ranks_inside(plan: Any, axis: str, others: tuple[str, ...]) -> Any:
    """Product of the degrees of those of `others` that lie inside `axis`, of a plan or of each plan of a grid."""
    code = order_code(plan.order)
    product: Any = 1
    for other in others:
        product = product * getattr(plan, other) ** _IS_INSIDE[other, axis][code]
    return product
