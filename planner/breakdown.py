"""Where a step's time goes on the slowest rank: named parts that sum to the step."""

from dataclasses import dataclass, fields
from typing import Any

Seconds = Any
"""A float, or an array of one value a plan."""


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Seconds of one step on the slowest rank (the busiest one), by cause. The step is their sum.

    `forward`, `backward`, `recompute` and `optimizer` are time on the compute stream; the five axes are exposed
    communication (time on a network stream with no compute beside it); `host` is what the launch floor adds
    to device time; `idle` is waiting for other ranks (the pipeline bubble).
    """

    forward_seconds: Seconds = 0.0
    backward_seconds: Seconds = 0.0
    recompute_seconds: Seconds = 0.0
    optimizer_seconds: Seconds = 0.0
    tp_seconds: Seconds = 0.0
    cp_seconds: Seconds = 0.0
    ep_seconds: Seconds = 0.0
    pp_seconds: Seconds = 0.0
    dp_seconds: Seconds = 0.0
    host_seconds: Seconds = 0.0
    idle_seconds: Seconds = 0.0

    @property
    def step_seconds(self) -> Seconds:
        """The whole step."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, Seconds]:
        """Part name (without its unit) -> seconds, in the order of the fields."""
        return {field.name.removesuffix("_seconds"): getattr(self, field.name) for field in fields(self)}

    def row(self, index: int) -> "Breakdown":
        """One plan's breakdown, as floats, out of a breakdown of arrays."""
        return Breakdown(**{
            field.name: float(value[index]) if getattr(value := getattr(self, field.name), "ndim", 0)
            else float(value) for field in fields(self)
        })  # fmt: skip


PARTS = tuple(Breakdown().parts())
