"""Iterations launched kernel by kernel, without captured graphs: the host's launches are a floor under device time."""

from dataclasses import dataclass

from planner.serving import DecodeLine, IterationPrices, IterationShape, ServingPlan
from planner.work.iteration import ServedShard, num_launches
from profiles.engine import EngineRecord
from profiles.model import TransformerShape


@dataclass(frozen=True, slots=True)
class EagerPrices:
    """Prices of an engine that launches each kernel by itself, as `planner.serving.IterationPrices`.

    The device waits for the host where kernels are shorter than their launches, and hides them where they are longer:
    t = max(t captured, launches * t launch + scheduling) [Nguyen 2021, "Accelerating PyTorch with CUDA Graphs",
    pytorch.org/blog: kernels shorter than their launch leave the device idle].
    """

    captured: IterationPrices
    """With graphs, whose launches cost the host nothing."""
    launch_seconds: float
    """Of all launches of an iteration, and of what the host does between two iterations."""
    host_seconds_per_request: float

    def iteration_seconds(self, shape: IterationShape) -> float:
        """Any iteration."""
        return max(self.captured.iteration_seconds(shape), self._floor(len(shape.prefill_tokens) + shape.num_decodes))

    def decode_line(self, num_decodes: int, context_tokens: float) -> DecodeLine:
        """Level as far as launches take longer, then the line of the kernels."""
        line, floor = self.captured.decode_line(num_decodes, context_tokens), self._floor(num_decodes)
        if line.seconds(context_tokens) >= floor:
            return line
        slope = line.seconds_per_token
        crossing = (floor - line.base_seconds) / slope if slope > 0.0 else float("inf")
        return DecodeLine(floor, 0.0, min(crossing, line.last_tokens))

    def _floor(self, num_requests: int) -> float:
        return self.launch_seconds + self.host_seconds_per_request * num_requests


def as_launched(
    prices: IterationPrices, plan: ServingPlan, shard: ServedShard, model: TransformerShape, engine: EngineRecord
) -> IterationPrices:
    """`prices` as they are, or, where the plan is eager, above the floor of the host's launches.

    Raises ValueError for an engine whose time per launch nobody measured.
    """
    if not plan.eager:
        return prices
    if not engine.host_seconds_per_launch:
        raise ValueError(
            f"eager: host_seconds_per_launch of engine {engine.name} is not known; write a record that states it"
        )
    count = num_launches(model, shard) * (1.0 + plan.draft_tokens / model.num_layers)
    launches = engine.host_seconds_per_launch * count + engine.host_seconds_per_iteration
    return EagerPrices(prices, launches, engine.host_seconds_per_sequence / shard.attention_dp)
