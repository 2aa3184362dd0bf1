"""The step program: what every rank of one pipeline does, action by action. The shared representation.

The planner prices it, the simulator plays it, validate runs it. Ranks that differ only in their tp, cp, ep or
dp coordinate do the same work, so one list of actions stands for all ranks of a pipeline position.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from planner.plan import Plan
from planner.work.ops import Op


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


Counted = tuple[tuple[Op, float], ...]
"""Operations, each with how many times it runs."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an action runs: `recomputed` first (a backward only), then `ops`, in order."""

    ops: Counted = ()
    recomputed: Counted = ()


@dataclass(frozen=True, slots=True)
class StepProgram:
    """The actions of every pipeline rank, and the work behind each (kind, chunk)."""

    plan: Plan
    num_microbatches: int
    ranks: tuple[tuple[Action, ...], ...]
    """By pipeline rank, in program order."""
    work: Mapping[tuple[Kind, int], Work]
    """Work of one action, by (kind, chunk). SEND actions carry their message; RECV actions carry none."""
    activation_bytes: tuple[float, ...] = ()
    """Bytes one microbatch keeps between its forward and its backward, by chunk."""
    num_gradient_buckets: tuple[int, ...] = field(default=())
    """Buckets a chunk's gradient reduction is cut into, by chunk."""
