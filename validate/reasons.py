"""Why a figure that was counted is not the planner's: parts of the difference, each with words."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """Part of a difference: counted over planned."""

    amount: float
    words: str


def unexplained(counted: float, planned: float, reasons: Iterable[Reason], rounding: float) -> float:
    """What of the difference no reason names; 0 where it is within `rounding`, a share of the larger figure."""
    rest = counted - planned - sum(reason.amount for reason in reasons)
    return 0.0 if abs(rest) <= rounding * max(abs(counted), abs(planned)) else rest
