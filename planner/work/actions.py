"""Actions: the words a step program is written in."""

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What an action does."""

    FORWARD = "F"
    BACKWARD = "B"
    """Gradients of inputs and of weights, after recomputing what was not kept."""
    BACKWARD_INPUT = "I"
    """The part of a backward pass that the stage before waits for: gradients of inputs."""
    BACKWARD_WEIGHT = "W"
    """The rest of it, which nobody waits for: gradients of weights."""
    SEND_FORWARD = "SEND_F"
    RECV_FORWARD = "RECV_F"
    SEND_BACKWARD = "SEND_B"
    RECV_BACKWARD = "RECV_B"
    REDUCE_GRADIENTS = "REDUCE"
    """Reduce a chunk's gradients over dp and cp; issued after its last backward starts, bucket by bucket."""
    OPTIMIZER = "STEP"
    GATHER_AGAIN = "REGATHER"
    """Collect a layer's parameters for its backward pass; never an action of its own, but part of one."""
    GATHER_PARAMETERS = "GATHER"
    """Collect the parameters that a sharded optimizer updated elsewhere."""


BACKWARDS = frozenset({Kind.BACKWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT})
SENDS_GRADIENT = frozenset({Kind.BACKWARD, Kind.BACKWARD_INPUT})
"""What ends with the gradient that the stage before waits for."""
FREES = frozenset({Kind.BACKWARD, Kind.BACKWARD_WEIGHT})
"""What ends the life of a microbatch on a chunk, and adds to the gradients of its weights."""
PASSES = BACKWARDS | {Kind.FORWARD}
"""Forwards and backwards: what a schedule orders."""
COMPUTE = PASSES | {Kind.OPTIMIZER}
"""Actions of the compute stream."""
SENDS = frozenset({Kind.SEND_FORWARD, Kind.SEND_BACKWARD})
RECEIVES = frozenset({Kind.RECV_FORWARD, Kind.RECV_BACKWARD})


class Action(NamedTuple):
    """One step of one pipeline rank; prints as `2F0`: chunk 2, forward, microbatch 0.

    `chunk` is the piece of the model; which pipeline rank it lives on is the schedule's `Placement`. Actions that
    belong to no microbatch (REDUCE, STEP, GATHER) carry -1.
    """

    kind: Kind
    chunk: int
    microbatch: int = -1

    def __str__(self) -> str:
        return f"{self.chunk}{self.kind.value}" + (str(self.microbatch) if self.microbatch >= 0 else "")


def matching_send(receive: Action) -> Action:
    """The SEND, on the neighbouring chunk, whose message `receive` waits for."""
    assert receive.kind in RECEIVES, receive
    if receive.kind is Kind.RECV_FORWARD:
        return Action(Kind.SEND_FORWARD, receive.chunk - 1, receive.microbatch)
    return Action(Kind.SEND_BACKWARD, receive.chunk + 1, receive.microbatch)
