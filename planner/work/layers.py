"""The layers of a model under a split: which there are, what each rank holds of them, and what it runs.

A layer is a list of `Step`s: an operation of the forward pass with the operations of its backward pass. All
figures are for one microbatch on one rank and broadcast over the columns of a `PlanGrid`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from planner.layout import EVEN, Layout
from planner.plan import Plan, PlanGrid
from planner.recompute import Module, Recompute
from planner.work import blocks
from planner.work.blocks import Shard, Step
from planner.work.host import layer_copies
from planner.work.kinds import (
    DENSE,
    EMBEDDING,
    ENCODER,
    ENDS,
    HEAD,
    MOE,
    MTP,
    blocks_of,
    most_chunks,
    num_blocks,
    recomputed_fraction,
    sequence,
    tail,
)
from planner.work.ops import Elementwise, Gemm, GroupedGemm, Listed, Op
from planner.work.program import Work
from planner.work.schedules import SCHEDULES
from planner.work.sharding import KEPT_GATHERED, gathers_in_backward, gathers_in_forward, reduces_in_backward
from profiles.model import LayerList, ModelShape, TransformerShape
from profiles.parameters import model_flops_per_token
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob


def divides_evenly(num_layers: Any, num_chunks: Any) -> Any:
    """Whether blocks deal out to chunks equally: alone, or with the embedding and the head counted as blocks.

    The second way is how models of 126 or 70 layers are built for 16 or 12 stages: their first and last
    chunks hold one block less, and of 128 chunks only the embedding or the head [Llama team 2024, arXiv:2407.21783,
    section 3.3.2].
    """
    return np.equal(np.mod(num_layers, num_chunks), 0) | np.equal(np.mod(num_layers + 2, num_chunks), 0)


@lru_cache(maxsize=512)
def stage_counts(model: ModelShape, num_chunks: int, layout: Layout = EVEN) -> tuple[dict[str, int], ...]:
    """Layers of each kind in each of `num_chunks` model chunks, as `layout` or as equal as `divides_evenly` allows.

    The embedding goes with the first chunk, the head and MTP modules with the last. Without a layout, blocks that
    divide in neither way are dealt out in equal shares with the remainder on the first chunks.
    """
    counts: list[dict[str, int]] = [{} for _ in range(num_chunks)]
    body, has_ends = blocks_of(model), EMBEDDING in sequence(model)
    ends = has_ends and len(body) % num_chunks != 0 and (len(body) + 2) % num_chunks == 0
    places = [EMBEDDING, *body, HEAD] if ends and not layout else body
    shares = np.array_split(np.arange(len(places)), np.cumsum(layout)[:-1] if layout else num_chunks)
    assert len(shares) == num_chunks, layout
    for chunk, share in enumerate(shares):
        counts[chunk] = dict(Counter(places[index] for index in share if places[index] not in ENDS))
    for kind in tail(model):
        counts[-1][kind] = counts[-1].get(kind, 0) + 1
    if has_ends:
        counts[0][EMBEDDING] = 1
    return tuple(counts)


@lru_cache(maxsize=512)
def rank_chunks(
    model: ModelShape, schedule: str, num_stages: int, vp: int, layout: Layout = EVEN
) -> tuple[tuple[dict[str, int], ...], ...]:
    """For each pipeline rank the layers of each of its chunks, as `schedule` places them."""
    placement = SCHEDULES[schedule].placement
    cut = stage_counts(model, placement.num_pieces(num_stages, vp), layout)
    held: list[list[dict[str, int]]] = [[] for _ in range(num_stages)]
    for rank, piece in zip(placement.ranks(num_stages, vp), placement.pieces(num_stages, vp), strict=True):
        held[rank].append(cut[piece])
    return tuple(tuple(chunks) for chunks in held)


def layer_parameters(model: ModelShape, kind: str, split: Plan | PlanGrid) -> tuple[Any, Any]:
    """(parameters replicated over dp, expert parameters sharded over ep first) one rank holds of a layer."""
    if isinstance(model, LayerList):
        return model.layers[int(kind.removeprefix("layer-"))].parameters + 0.0 * split.tp, 0.0 * split.tp
    return blocks.parameters(model, kind, split)


@dataclass(frozen=True, slots=True)
class LayerWork:
    """The two directions of one layer for one microbatch on one rank."""

    forward: Work
    backward: Work
    weight_gradient: Work
    """The part of the backward pass that no other layer waits for."""

    @property
    def backward_input(self) -> Work:
        """The rest of the backward pass, with the recomputation."""
        return Work(
            self.backward.ops[: len(self.backward.ops) - len(self.weight_gradient.ops)], self.backward.recomputed
        )


def layer_work(job: TrainingJob, kind: str, split: Plan | PlanGrid, stack: SoftwareStack) -> LayerWork:
    """What a rank runs for one layer; recomputation precedes the backward pass as `split.recompute` says."""
    steps = _steps(job, kind, split, stack)
    copy, copy_back = _copies(job, kind, split, stack)
    forward = (*((step.op, step.count) for step in steps), *copy(gathers_in_forward(split)))
    again = _again_fractions(job, kind, split, stack)
    needed = _needed_again(steps, stack)
    recomputed = tuple((step.op, step.count * again(step, used)) for step, used in zip(steps, needed, strict=True))
    inputs = (
        *((op, step.count) for step in reversed(steps) for op in step.backward),
        *copy(gathers_in_backward(split) & (kind not in KEPT_GATHERED)),
        *copy_back(np.equal(split.zero_stage, 3) & reduces_in_backward(split)),
    )
    weights = tuple((op, step.count) for step in reversed(steps) for op in step.weight_gradient)
    out, back = layer_copies(job, kind, layer_parameters(job.model, kind, split), split, stack)
    return LayerWork(Work((*out, *forward)), Work((*back, *inputs, *weights), recomputed), Work(weights))


def _again_fractions(
    job: TrainingJob, kind: str, split: Plan | PlanGrid, stack: SoftwareStack
) -> Callable[[Step, bool], Any]:
    """Which share of a step the backward pass of a layer of `kind` runs again first, and whether full does at all."""
    if kind in ENDS:
        return lambda step, needed: 0.0 * split.tp
    policy = split.recompute
    full = np.equal(policy, Recompute.FULL) * recomputed_fraction(job.model, split)
    selective = np.equal(policy, Recompute.SELECTIVE)
    operators = np.equal(policy, Recompute.OPERATORS) * 1.0
    keeps_core = stack.attention_kernel != "unfused"

    def again(step: Step, needed: bool) -> Any:
        modules = step.modules | (Module.CORE_ATTN if step.is_core else Module.NOTHING)
        chosen = selective & np.not_equal(np.bitwise_and(split.recompute_modules, int(modules)), 0)
        kept = step.is_core and keeps_core
        ends_with_layer = bool(step.modules & Module.MLP)
        return (
            full * needed
            + chosen * (needed or not ends_with_layer)
            + operators * (0.0 if kept else step.again_fraction)
        )

    return again


Copy = Callable[[Any], tuple[tuple[Op, Any], ...]]
"""Where a pass does it -> the kernel and how often."""


def _copies(job: TrainingJob, kind: str, split: Plan | PlanGrid, stack: SoftwareStack) -> tuple[Copy, Copy]:
    """Copying a layer's parameters out of the buffer of their gather, and its gradients into that of their scatter."""
    parameters = sum(layer_parameters(job.model, kind, split))

    def moving(bytes_per_parameter: float, launches: float) -> Copy:
        moved = bytes_per_parameter * parameters
        kernel = Elementwise(moved, num_launches=launches, in_place=True)
        return lambda does: ((kernel, does * 1.0),) if np.any(does) and np.any(moved) else ()

    return (
        moving(stack.gather_copy_bytes_per_parameter, stack.gather_copy_launches),
        moving(stack.scatter_copy_bytes_per_parameter, 1.0),
    )


def _needed_again(steps: list[Step], stack: SoftwareStack) -> list[bool]:
    """Which steps full recomputation has to run: all, or those before the last product if it stops early.

    The last product's inputs are the last tensors that the backward pass reads.
    """
    products = [index for index, step in enumerate(steps) if isinstance(step.op, Gemm | GroupedGemm)]
    end = products[-1] if products and stack.recompute_stops_early else len(steps)
    return [index < end for index in range(len(steps))]


def _steps(job: TrainingJob, kind: str, split: Plan | PlanGrid, stack: SoftwareStack) -> list[Step]:
    model = job.model
    if isinstance(model, LayerList):
        layer = model.layers[int(kind.removeprefix("layer-"))]
        samples = split.micro_batch * 1.0
        kernel = Listed(samples * layer.forward_flops, samples * layer.forward_bytes, blocks.gemm_dtype(job))
        data, weight = kernel.backward()
        return [Step(kernel, (data,), weight_gradient=(weight,))]
    assert isinstance(model, TransformerShape)
    shard = Shard.of(job, split, stack)
    if kind == EMBEDDING:
        return blocks.embedding(model, shard)
    if kind == HEAD:
        return blocks.head(model, shard, stack)
    if kind == MTP:
        return blocks.further_token(model, shard, stack)
    attention = blocks.latent_attention if model.mla else blocks.attention
    steps = attention(model, shard, causal=model.causal and kind != ENCODER)
    if model.num_encoder_layers and kind != ENCODER:
        steps += blocks.attention(model, shard, causal=False)
    feed_forward = blocks.mixture_of_experts if kind == MOE else blocks.feed_forward
    return steps + feed_forward(model, shard)


def boundary_bytes(job: TrainingJob, split: Plan | PlanGrid, stack: SoftwareStack) -> Any:
    """Bytes a rank sends to the next stage for one microbatch, one direction."""
    if isinstance(job.model, LayerList):
        return split.micro_batch * max(layer.output_bytes for layer in job.model.layers)
    shard = Shard.of(job, split, stack)
    slices = split.tp if stack.p2p_scatter_gather else np.where(split.sequence_parallel, split.tp, 1)
    streams = 2.0 if job.model.num_encoder_layers else 1.0
    return streams * shard.width * shard.tokens * job.model.hidden_size / slices


def model_flops(job: TrainingJob) -> float:
    """Model FLOPs of the step, without recomputation and with all attention pairs: the numerator of MFU.

    Source: `profiles.parameters.model_flops_per_token`; the operations of `layer_work` add up to the same.
    """
    samples = job.global_batch if isinstance(job.model, LayerList) else job.tokens_per_step
    return float(samples * model_flops_per_token(job.model, job.sequence_length, lora_rank=job.lora_rank))


__all__ = [
    "DENSE",
    "EMBEDDING",
    "ENCODER",
    "HEAD",
    "MOE",
    "LayerWork",
    "blocks_of",
    "boundary_bytes",
    "divides_evenly",
    "layer_parameters",
    "layer_work",
    "model_flops",
    "most_chunks",
    "num_blocks",
    "rank_chunks",
    "sequence",
    "stage_counts",
    "tail",
]  # fmt: skip
