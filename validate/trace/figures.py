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
    num_parameters: float
    num_padding: float
    """Elements that equal shards add to them."""
    elements: Mapping[str, float]
    """Parameters of one layer of each kind."""
    padding: Mapping[str, float]
    """Elements that FSDP adds to them."""
    peak_bytes: float
    """Most that lived at once before the update."""
