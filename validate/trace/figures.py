"""What is counted of a traced rank, in words and figures that need no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

FORWARD, BACKWARD, RECOMPUTE = "forward", "backward", "recompute"
MATRIX, EXPERTS, ATTENTION = "matrix products", "expert products", "attention"


LOSS = "loss"
"""Where tensors of the loss are made; layers are called by their kind."""
RECEIVED = ("", "received")
"""What the buffers of a pipeline's inputs are called among what waits for the backward pass."""


@dataclass(slots=True)
class Sent:
    """Messages of one collective on one axis."""

    num_messages: int = 0
    num_bytes: float = 0.0


@dataclass(slots=True)
class Counts:
    """What a rank did in a step."""

    flops: dict[tuple[str, str], float] = field(default_factory=dict)
    """By (operation, phase)."""
    sent: dict[tuple[str, str, str, int], Sent] = field(default_factory=dict)
    """By (axis, collective, place, elements of one message), in the sizes of `planner.work.ops.Message`."""


Sharded = tuple[str, str]
"""Parameters that are sharded alike: (kind of layer, "dp", or "edp" for experts); a whole rank is the kind ""."""


@dataclass(slots=True)
class Sizes:
    """Parameters of a rank before they are sharded, and what equal shards add to them."""

    num_shards: dict[str, int]
    """Of "dp" and "edp"."""
    elements: dict[Sharded, float] = field(default_factory=dict)
    """Of one layer of each kind, and of the whole rank."""
    padding: dict[Sharded, float] = field(default_factory=dict)

    def share(self, kind: str, part: str) -> float:
        """Padding over elements."""
        elements = self.elements.get((kind, part), 0.0)
        return self.padding.get((kind, part), 0.0) / elements if elements else 0.0

    @property
    def held_share(self) -> float:
        """Padding over elements of what a rank holds of the shards."""
        held = [
            sum(sizes.get(("", part), 0.0) / shards for part, shards in self.num_shards.items())
            for sizes in (self.padding, self.elements)
        ]
        return held[0] / held[1]

    @property
    def whole_share(self) -> float:
        """Padding over elements of all parameters of a rank, before they are sharded."""
        padding, elements = (
            sum(sizes.get(("", part), 0.0) for part in self.num_shards) for sizes in (self.padding, self.elements)
        )
        return padding / elements


@dataclass(frozen=True, slots=True)
class Traced:
    """What torch did on one rank."""

    stage: int
    counts: Counts
    parameters_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    waiting: Mapping[tuple[str, str], float]
    """Bytes that wait for the backward pass when most do, by (kind of layer, operation that made them)."""
    sizes: "Sizes"
    peak_bytes: float
    """Most that lived at once before the update."""
