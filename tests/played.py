"""Programs with prices made up for a test: what the tests of schedules, programs and the simulator play."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from planner.cost.layered import LayerPrice
from planner.plan import SCHEDULE_NAMES, Plan
from planner.work.program import Kind, StepProgram, build_actions
from planner.work.schedules import SCHEDULES
from simulator.engine import Simulation, simulate


@dataclass(frozen=True)
class Parts:
    """A price given by its parts."""

    seconds: dict[str, float]
    layers: tuple[LayerPrice, ...] = ()

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    def parts(self) -> dict[str, float]:
        return self.seconds


@dataclass(frozen=True)
class Shape:
    """A pipeline: a schedule with its stages, microbatches and chunks a rank."""

    schedule: Any
    num_stages: int
    num_microbatches: int
    vp: int = 1

    @property
    def num_chunks(self) -> int:
        return int(SCHEDULES[self.schedule].placement.num_chunks(self.num_stages, self.vp))

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of every chunk."""
        return SCHEDULES[self.schedule].placement.ranks(self.num_stages, self.vp)

    def plan(self, **fields: Any) -> Plan:
        return Plan(pp=self.num_stages, vp=self.vp, schedule=self.schedule, **fields)

    def program(self, buckets: int = 1, **fields: Any) -> StepProgram:
        plan = self.plan(**fields)
        return StepProgram(
            plan=plan,
            num_microbatches=self.num_microbatches,
            ranks=build_actions(plan, self.num_microbatches),
            work={},
            activation_bytes=tuple(100.0 + chunk for chunk in range(self.num_chunks)),
            num_gradient_buckets=(buckets,) * self.num_chunks,
        )


@st.composite
def shapes(draw: st.DrawFn, *schedules: str) -> Shape:
    """Any legal pipeline of up to 8 stages, some 20 microbatches and 4 chunks a rank, of `schedules` or of all."""
    name = draw(st.sampled_from(schedules or SCHEDULE_NAMES))
    num_stages = draw(st.integers(1, 8))
    num_microbatches, vp = draw(st.integers(1, 16)), draw(st.integers(1, 4))
    if name == "dualpipe":
        num_stages += num_stages % 2
    requirements = SCHEDULES[name].requirements
    legal = [
        (m, v) for m in range(num_microbatches, num_microbatches + 16) for v in (vp, 2, 1)
        if all(rule.holds(num_stages, m, v) for rule in requirements)
    ]  # fmt: skip
    return Shape(name, num_stages, *legal[0])


seconds = st.floats(0.01, 10.0)


def prices(
    forward: Sequence[float],
    backward: Sequence[float],
    *,
    transfer: float = 0.0,
    reduce: float = 0.0,
    step: float = 0.0,
    gather: float = 0.0,
    weight_fraction: float = 0.5,
) -> dict[tuple[Kind, int], Parts]:
    """Prices by chunk; a fifth of a forward is tensor-parallel messages, a quarter of a backward recomputation.

    `weight_fraction` is the share of a backward that is gradients of weights.
    """
    table: dict[tuple[Kind, int], Parts] = {}
    for chunk, (down, up) in enumerate(zip(forward, backward, strict=True)):
        table[Kind.FORWARD, chunk] = Parts({"forward": 0.8 * down, "tp": 0.2 * down})
        table[Kind.BACKWARD, chunk] = Parts({"recompute": 0.25 * up, "backward": 0.75 * up})
        table[Kind.BACKWARD_INPUT, chunk] = Parts({"backward": (1.0 - weight_fraction) * up})
        table[Kind.BACKWARD_WEIGHT, chunk] = Parts({"backward": weight_fraction * up})
        table[Kind.SEND_FORWARD, chunk] = table[Kind.SEND_BACKWARD, chunk] = Parts({"pp": transfer})
        table[Kind.REDUCE_GRADIENTS, chunk] = Parts({"dp": reduce})
        table[Kind.OPTIMIZER, chunk] = Parts({"optimizer": step})
        table[Kind.GATHER_PARAMETERS, chunk] = Parts({"dp": gather})
    return table


def play(
    shape: Shape,
    forward: Sequence[float],
    backward: Sequence[float],
    *,
    transfer: float = 0.0,
    overlap: bool = True,
    weight_fraction: float = 0.5,
) -> Simulation:
    """Play the forwards and backwards of `shape`, and its transfers."""
    table = prices(forward, backward, transfer=transfer, weight_fraction=weight_fraction)
    return simulate(shape.program(), table, dp_overlap=overlap, pp_overlap=overlap)
