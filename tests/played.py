"""Programs with prices made up for a test: what the tests of schedules, programs and the simulator play."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from planner.cost.layered import LayerPrice
from planner.plan import Plan
from planner.work.program import Kind, StepProgram, build_actions
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
        return self.num_stages * self.vp

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
def shapes(draw: st.DrawFn, schedule: str | None = None) -> Shape:
    """Any legal pipeline of up to 8 stages, 16 microbatches and 4 chunks a rank."""
    name = schedule or draw(st.sampled_from(["gpipe", "1f1b", "interleaved"]))
    num_stages = draw(st.integers(1, 8))
    if name != "interleaved":
        return Shape(name, num_stages, draw(st.integers(1, 16)))
    groups = draw(st.integers(1, max(1, 16 // num_stages)))
    return Shape(name, num_stages, groups * num_stages, draw(st.integers(2, 4)))


seconds = st.floats(0.01, 10.0)


def prices(
    forward: Sequence[float],
    backward: Sequence[float],
    *,
    transfer: float = 0.0,
    reduce: float = 0.0,
    step: float = 0.0,
    gather: float = 0.0,
) -> dict[tuple[Kind, int], Parts]:
    """Prices by chunk; a fifth of a forward is tensor-parallel messages, a quarter of a backward recomputation."""
    table: dict[tuple[Kind, int], Parts] = {}
    for chunk, (down, up) in enumerate(zip(forward, backward, strict=True)):
        table[Kind.FORWARD, chunk] = Parts({"forward": 0.8 * down, "tp": 0.2 * down})
        table[Kind.BACKWARD, chunk] = Parts({"recompute": 0.25 * up, "backward": 0.75 * up})
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
) -> Simulation:
    """Play the forwards and backwards of `shape`, and its transfers."""
    table = prices(forward, backward, transfer=transfer)
    return simulate(shape.program(), table, dp_overlap=overlap, pp_overlap=overlap)
