"""Pipeline stages of a replica: as many loops as stages take turns, each with its share of the memory.

One loop's batch is in the second stage while the next one's is in the first, so that every stage has work; a loop
forms a batch when the first stage is free. Batches follow one another through the stages in the order they came.
"""

from collections.abc import Callable
from dataclasses import replace

from planner.serving import IterationPrices, IterationShape
from simulator.serving.batcher import Batcher
from simulator.serving.ledger import Ledger
from simulator.serving.spec import ReplicaSpec


class Stages:
    """The stages of one replica, and when each is free."""

    __slots__ = ("_free_seconds", "_prices")

    def __init__(self, prices: tuple[IterationPrices, ...]) -> None:
        self._prices = prices
        self._free_seconds = [0.0] * len(prices)

    @property
    def free_seconds(self) -> float:
        """When the first stage can begin with another batch."""
        return self._free_seconds[0]

    def pass_through(self, shape: IterationShape, begin: float) -> float:
        """When a batch that enters at `begin` leaves the last stage."""
        at = begin
        for stage, prices in enumerate(self._prices):
            at = max(at, self._free_seconds[stage]) + prices.iteration_seconds(shape)
            self._free_seconds[stage] = at
        return at


class Lane(Batcher):
    """One of the loops that share the stages of a replica. Their turns depend on one another: nothing coalesces."""

    def __init__(
        self, spec: ReplicaSpec, ledger: Ledger, stages: Stages, *, prompts_only: bool,
        steps_of: Callable[[int], int] | None,
    ) -> None:  # fmt: skip
        share = len(spec.stages)
        own = replace(spec, kv_tokens=spec.kv_tokens // share, max_sequences=max(spec.max_sequences // share, 1))
        super().__init__(own, ledger, prompts_only=prompts_only, coalesces=False, steps_of=steps_of)
        self.stages = stages

    def can_start_at(self, now: float) -> float:
        """When the first stage is free."""
        return max(now, self.stages.free_seconds)

    def seconds_of(self, shape: IterationShape, begin: float) -> float:
        """Through all stages, behind the batches of the other loops."""
        return self.stages.pass_through(shape, begin) - begin


def loops_of(
    spec: ReplicaSpec, ledger: Ledger, *, prompts_only: bool, coalesces: bool, steps_of: Callable[[int], int] | None
) -> list[Batcher]:
    """The loops of one replica: one a stage."""
    if len(spec.stages) == 1:
        return [Batcher(spec, ledger, prompts_only=prompts_only, coalesces=coalesces, steps_of=steps_of)]
    stages = Stages(spec.stages)
    return [Lane(spec, ledger, stages, prompts_only=prompts_only, steps_of=steps_of) for _ in spec.stages]
