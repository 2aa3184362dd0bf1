"""Actions: the words a step program is written in."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What an action does."""

    FORWARD = "F"
    BACKWARD = "B"
    """Data and weight gradients, after recomputing what was not kept."""
    SEND_FORWARD = "SEND_F"
    RECV_FORWARD = "RECV_F"
    SEND_BACKWARD = "SEND_B"
    RECV_BACKWARD = "RECV_B"
    REDUCE_GRADIENTS = "REDUCE"
    """Reduce a chunk's gradients over dp and cp; issued after its last backward starts, bucket by bucket."""
    OPTIMIZER = "STEP"
    GATHER_PARAMETERS = "GATHER"
    """Collect the parameters that a sharded optimizer updated elsewhere."""


COMPUTE = frozenset({Kind.FORWARD, Kind.BACKWARD, Kind.OPTIMIZER})
"""Actions of the compute stream."""
SENDS = frozenset({Kind.SEND_FORWARD, Kind.SEND_BACKWARD})
RECEIVES = frozenset({Kind.RECV_FORWARD, Kind.RECV_BACKWARD})


@dataclass(frozen=True, slots=True, order=True)
class Action:
    """One step of one pipeline rank; prints as `2F0`: chunk 2, forward, microbatch 0.

    `chunk` is the virtual stage, 0 .. pp * vp - 1, and lives on pipeline rank `chunk % pp`. Actions that
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
