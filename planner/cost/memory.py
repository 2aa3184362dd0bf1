"""Bytes on the fullest rank of a plan, by cause, for one plan or a grid of a million.

peak = states + activations in flight + logits + working buffers, plus what the allocator reserves beyond it
and what lies outside the allocator. States: [Rajbhandari 2020, arXiv:1910.02054, section 3]; activations and
schedules: [Korthikanti 2022, arXiv:2205.05198, section 4.2]; the structure and its constants were checked on
the allocator peaks of eight-device runs (MooreThreads/SimuMax@4dcaae513b docs/b200).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.cost.grid import combinations
from planner.plan import AXES, Plan, PlanGrid
from planner.work.activations import FLOAT_BYTES, recomputed_bytes, saved_bytes, transient_bytes
from planner.work.blocks import attention_parameters, ffn_parameters, padded_vocabulary
from planner.work.layers import layer_parameters, sequence, stage_counts
from planner.work.schedules import in_flight
from profiles.cluster import Cluster
from profiles.model import LayerList, ModelShape, TransformerShape
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]
Bytes = Any
"""A float, or an array of one value a plan."""

_STAGE_COLUMNS = ("tp", "cp", "ep", "pp", "vp", "micro_batch", "recompute", "sequence_parallel")
"""What the bytes of a stage depend on, before microbatches in flight and the sharding of states."""


@dataclass(frozen=True, slots=True)
class MemoryBreakdown:
    """Bytes of device memory on the fullest rank, by cause; the peak is their sum."""

    weights_bytes: Bytes = 0.0
    gradients_bytes: Bytes = 0.0
    optimizer_bytes: Bytes = 0.0
    activations_bytes: Bytes = 0.0
    """Kept between forward and backward, by all microbatches in flight."""
    logits_bytes: Bytes = 0.0
    """Logits and what the loss makes of them."""
    workspace_bytes: Bytes = 0.0
    """Alive while a layer runs: recomputed tensors, gradients of activations, library buffers."""
    fragmentation_bytes: Bytes = 0.0
    """Reserved by the allocator beyond what is allocated."""
    context_bytes: Bytes = 0.0
    """Outside the allocator: driver context, kernels, communicators."""

    def parts(self) -> dict[str, Bytes]:
        """Part name (without its unit) -> bytes, in the order of the fields."""
        return {field.name.removesuffix("_bytes"): getattr(self, field.name) for field in fields(self)}

    @property
    def allocated_bytes(self) -> Bytes:
        """What the framework's allocator reports as allocated at its peak."""
        return self.reserved_bytes - self.fragmentation_bytes

    @property
    def reserved_bytes(self) -> Bytes:
        """What the framework's allocator holds at its peak."""
        return self.device_bytes - self.context_bytes

    @property
    def device_bytes(self) -> Bytes:
        """What the device's own tool reports, and what has to fit."""
        return sum(self.parts().values())

    peak_bytes = device_bytes

    def row(self, index: int) -> "MemoryBreakdown":
        """One plan's bytes, as floats, out of arrays."""
        return MemoryBreakdown(**{
            field.name: float(np.broadcast_to(getattr(self, field.name), np.shape(self.weights_bytes))[index])
            for field in fields(self)
        })  # fmt: skip


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes per parameter held for the whole step; the optimizer's are what sharding divides."""

    weights: float
    gradients: float
    optimizer: float

    @classmethod
    def of(cls, job: TrainingJob, stack: SoftwareStack) -> "StateBytes":
        """Mixed precision keeps 16-bit weights and an fp32 master copy beside two fp32 Adam moments.

        18 bytes a parameter with fp32 gradients [Korthikanti 2022, arXiv:2205.05198, figure 1]; SGD keeps one
        moment (momentum); fp8 training keeps bf16 weights.
        """
        moments = {"adam": 2.0, "sgd": 1.0}[job.optimizer] * FLOAT_BYTES
        if job.precision == "fp32":
            return cls(FLOAT_BYTES, FLOAT_BYTES, moments)
        gradients = stack.gradient_bytes + stack.gradient_copy_bytes
        return cls(DTYPE_BYTES["bf16"], gradients, FLOAT_BYTES + moments + stack.optimizer_gradient_bytes)


def memory(plans: Plan | PlanGrid, job: TrainingJob, stack: SoftwareStack) -> MemoryBreakdown:
    """Bytes on the fullest rank of each plan (every pipeline rank that can be the fullest is looked at)."""
    grid = plans if isinstance(plans, PlanGrid) else PlanGrid.of([plans])
    answer = _fullest(grid, job, stack)
    return answer if isinstance(plans, PlanGrid) else answer.row(0)


def usable_bytes(cluster: Cluster, stack: SoftwareStack) -> float:
    """Bytes of a device that a plan may take. Source: see `SoftwareStack.usable_memory_fraction`."""
    return stack.usable_memory_fraction * cluster.accelerator.memory_bytes


def _fullest(grid: PlanGrid, job: TrainingJob, stack: SoftwareStack) -> MemoryBreakdown:
    rows, column_of = combinations(grid, _STAGE_COLUMNS)
    distinct = grid.take(rows)
    state = StateBytes.of(job, stack)
    num_microbatches = np.maximum(grid.num_microbatches(job.global_batch), 1)
    is_sharded = grid.zero_stage >= 1
    shards = np.where(is_sharded, grid.dp * grid.cp, 1)
    expert_shards = np.where(is_sharded, np.maximum(grid.dp * grid.cp / grid.ep, 1.0), 1.0)
    best = np.zeros((6, len(grid)))
    total = np.full(len(grid), -1.0)
    for ranks, loads in _stage_loads(distinct, job, stack):
        dense, expert, kept, waiting, logits, working = np.take(loads, column_of, axis=1)
        rank = np.take(ranks, column_of)
        microbatches = in_flight(grid.schedule, grid.pp, num_microbatches, grid.vp, rank) / grid.vp
        held = dense + expert
        parts = (
            state.weights * held,
            state.gradients * held,
            state.optimizer * (dense / shards + expert / expert_shards),
            kept * microbatches,
            logits + waiting * np.maximum(microbatches - 1.0, 0.0),
            working + stack.library_workspace_bytes,
        )
        allocated = np.add.reduce(parts)
        fuller = allocated > total
        np.copyto(total, allocated, where=fuller)
        for row, part in zip(best, parts, strict=True):
            np.copyto(row, part, where=fuller)
    num_communicators = np.add.reduce([(getattr(grid, axis) > 1) * 1.0 for axis in AXES])
    names = [field.name for field in fields(MemoryBreakdown)][: len(best)]
    return MemoryBreakdown(
        **dict(zip(names, best, strict=True)),
        fragmentation_bytes=(stack.reserved_over_allocated - 1.0) * total,
        context_bytes=stack.context_bytes + stack.communicator_bytes * num_communicators,
    )


def _stage_loads(split: PlanGrid, job: TrainingJob, stack: SoftwareStack) -> Iterator[tuple[Floats, Floats]]:
    """(ranks, loads) of the pipeline ranks that can be the fullest, one candidate of every plan at a time.

    Loads, (6, plans): dense and expert parameters, kept bytes and logits of a waiting microbatch; logits and
    working bytes at the peak: the loss and the backward pass of a layer take turns, the larger counts.
    """
    kinds = tuple(dict.fromkeys(sequence(job.model)))
    layers = [_layer_loads(job, kind, split, stack) for kind in kinds]
    dummies = [_dummy_gradients(job.model, kind, split) for kind in kinds] if stack.weight_gradient_workspace else []
    for ranks, counts in _candidates(job.model, kinds, split):
        sums = np.add.reduce([count * load[:4] for count, load in zip(counts, layers, strict=True)])
        logits, working = np.zeros(len(split)), np.zeros(len(split))
        for count, load in zip(counts, layers, strict=True):
            wider = (count > 0.0) & (load[4] + load[5] > logits + working)
            logits, working = np.where(wider, load[4], logits), np.where(wider, load[5], working)
        yield ranks, np.stack([*sums, logits, working + _union(dummies, counts)])


def _candidates(model: ModelShape, kinds: tuple[str, ...], split: PlanGrid) -> Iterator[tuple[Floats, list[Floats]]]:
    """(pipeline rank, layer counts by kind) of every rank that no earlier one covers, for every plan.

    A later rank holds no more microbatches, so it can only be the fullest with more layers of some kind.
    Plans with fewer such ranks repeat their last one.
    """
    rows, shape_of = combinations(split, ("pp", "vp"))
    found = [_uncovered(model, kinds, int(split.pp[row]), int(split.vp[row])) for row in rows]
    for index in range(max((len(ranks) for ranks, _ in found), default=0)):
        picked = [(ranks[at := min(index, len(ranks) - 1)], counts[at]) for ranks, counts in found]
        ranks = np.array([rank for rank, _ in picked], dtype=float)
        table = np.stack([counts for _, counts in picked], axis=1)
        yield ranks[shape_of], list(table[:, shape_of])


def _uncovered(model: ModelShape, kinds: tuple[str, ...], num_stages: int, vp: int) -> tuple[list[int], list[Floats]]:
    chunks = stage_counts(model, num_stages * vp)
    ranks: list[int] = []
    counts: list[Floats] = []
    for rank in range(num_stages):
        own = np.array([sum(chunk.get(kind, 0) for chunk in chunks[rank::num_stages]) for kind in kinds], dtype=float)
        if not any((own <= earlier).all() for earlier in counts):
            ranks.append(rank)
            counts.append(own)
    return ranks, counts


def _layer_loads(job: TrainingJob, kind: str, split: PlanGrid, stack: SoftwareStack) -> Floats:
    """(6, plans) of one layer: dense and expert parameters, kept bytes, waiting logits; logits, working bytes."""
    dense, expert = layer_parameters(job.model, kind, split)
    kept = saved_bytes(job, kind, split, stack)
    working = recomputed_bytes(job, kind, split, stack) + transient_bytes(job, kind, split, stack)
    logits: Any = 0.0
    waiting: Any = 0.0
    if kind == "head":
        assert isinstance(job.model, TransformerShape)
        width = padded_vocabulary(job.model, split.tp * 1.0, stack)
        elements = split.micro_batch * job.sequence_length / (split.cp * 1.0) * width
        logits = stack.loss_bytes_per_logit * elements
        # A microbatch that waits for its backward pass keeps at most the fp32 softmax of its logits.
        waiting = min(stack.loss_bytes_per_logit, FLOAT_BYTES) * elements
        if stack.weight_gradient_workspace:
            working = working + DTYPE_BYTES["bf16"] * width * job.model.hidden_size
    loads = (dense, expert, kept, waiting, logits, working)
    return np.stack([np.broadcast_to(np.asarray(load, dtype=float), len(split)) for load in loads])


def _dummy_gradients(model: ModelShape, kind: str, split: PlanGrid) -> dict[str, Floats]:
    """Bytes of one bf16 gradient of every distinct weight of a layer kind, by the part that holds it."""
    if isinstance(model, LayerList) or kind in ("embedding", "head"):
        return {}
    tp, width = split.tp * 1.0, DTYPE_BYTES["bf16"]
    parts = {"attention": attention_parameters(model, tp)}
    if kind == "moe":
        assert model.moe is not None
        parts["expert"] = ffn_parameters(model, model.moe.expert_ffn_size, tp)
        parts["shared expert"] = ffn_parameters(model, model.moe.shared_width, tp)
    else:
        parts["feed-forward"] = ffn_parameters(model, model.ffn_size, tp)
    return {name: width * held for name, held in parts.items()}


def _union(dummies: list[dict[str, Floats]], counts: list[Floats]) -> Any:
    """Bytes of the parts that any layer of the stage has, each once."""
    total: Any = 0.0
    for name in dict.fromkeys(name for parts in dummies for name in parts):
        present = [np.where(count > 0.0, parts[name], 0.0)
                   for parts, count in zip(dummies, counts, strict=True) if name in parts]  # fmt: skip
        total = total + np.maximum.reduce(present)
    return total
