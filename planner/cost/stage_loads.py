"""What one microbatch and one set of layers put on a pipeline rank, before schedule and sharding multiply it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.cost.columns import STAGE_COLUMNS
from planner.cost.grid import combinations
from planner.plan import Plan, PlanGrid
from planner.work.activations import FLOAT_BYTES, recomputed_bytes, saved_bytes, transient_bytes
from planner.work.blocks import attention_parameters, ffn_parameters, padded_vocabulary
from planner.work.kinds import ENDS, HEAD, MTP
from planner.work.layers import layer_parameters, rank_chunks, sequence
from profiles.model import LayerList, ModelShape, TransformerShape
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]


class StageLoads(NamedTuple):
    """What a rank of one stage holds, each of shape (plans,)."""

    dense_parameters: Floats
    """Replicated over dp and cp."""
    expert_parameters: Floats
    kept_bytes: Floats
    """Bytes of one microbatch between its passes."""
    waiting_bytes: Floats
    """Bytes of the loss of a microbatch that waits for its backward pass."""
    passing_bytes: Floats
    """Kept bytes of the two layers that hold most, where the others are on the host."""
    gathered_parameters: Floats
    """Parameters gathered at once, if they are sharded."""
    logits_bytes: Floats
    """Bytes of the loss at the peak."""
    working_bytes: Floats
    """Bytes of the layer that runs, at the peak."""
    sharded_logits_bytes: Floats
    """As `logits_bytes` and `working_bytes`, where a layer's gradient is reduced and sharded as soon as it is there."""
    sharded_working_bytes: Floats


def compute_bytes(job: TrainingJob) -> float:
    """Bytes of a parameter as layers use it: fp32, else 16 bits [Micikevicius 2017, arXiv:1710.03740, section 3.1]."""
    return DTYPE_BYTES["fp32" if job.precision == "fp32" else "bf16"]


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Loads of every layer kind of a model, for the plans of a grid."""

    kinds: tuple[str, ...]
    loads: tuple[Floats, ...]
    """By kind, (7, plans): dense and expert parameters, kept bytes, waiting logits; logits, working bytes; the widest
    weight gradient that is added to an accumulated one."""
    dummies: tuple[dict[str, Floats], ...]
    """By kind: bytes of the dummy weight gradients of a layer, by the part they belong to."""
    unreduced_bytes: float
    """Of a parameter whose gradient is about to be reduced and sharded: the gradient and the copy that is sent."""

    @classmethod
    def of(cls, split: PlanGrid, job: TrainingJob, stack: SoftwareStack) -> "LayerBytes":
        """Work out every kind once."""
        kinds = tuple(dict.fromkeys(sequence(job.model)))
        dummies = tuple(_dummy_gradients(job.model, kind, split) for kind in kinds)
        return cls(
            kinds,
            tuple(_layer_loads(job, kind, split, stack) for kind in kinds),
            dummies if stack.weight_gradient_workspace else (),
            compute_bytes(job) + (DTYPE_BYTES["fp32"] if job.precision == "fp32" else stack.gradient_bytes),
        )

    def stage(self, counts: list[Floats]) -> Floats:
        """The rows of `StageLoads`, (10, plans), of a rank with `counts` layers of each kind."""
        sums = np.add.reduce([count * load[:4] for count, load in zip(counts, self.loads, strict=True)])
        dummies = _union(self.dummies, counts)
        logits, working = self._widest(counts, 0.0)
        sharded_logits, sharded_working = self._widest(counts, self.unreduced_bytes)
        return np.stack([
            *sums, self.passing(counts), self.gathered(counts), logits, working + dummies,
            sharded_logits, sharded_working + dummies,
        ])  # fmt: skip

    def passing(self, counts: list[Floats]) -> Floats:
        """Kept bytes of two layers of a rank, one whose activations are in use and one whose are on their way."""
        widest, num_layers = 0.0 * counts[0], 0.0 * counts[0]
        for count, load in zip(counts, self.loads, strict=True):
            widest = np.maximum(widest, np.where(count > 0.0, load[2], 0.0))
            num_layers = num_layers + count
        return np.minimum(num_layers, 2.0) * widest

    def gathered(self, counts: list[Floats]) -> Floats:
        """Parameters that a rank has gathered at once: the widest two layers, one in use and one ahead, and the ends.

        Embedding and head stay gathered from the forward to the backward pass
        [Zhao 2023, PyTorch FSDP, arXiv:2304.11277, section 3.3].
        """
        ends, widest, num_layers = 0.0 * counts[0], 0.0 * counts[0], 0.0 * counts[0]
        for kind, count, load in zip(self.kinds, counts, self.loads, strict=True):
            parameters = load[0] + load[1]
            if kind in ENDS:
                ends = ends + count * parameters
            else:
                widest = np.maximum(widest, np.where(count > 0.0, parameters, 0.0))
                num_layers = num_layers + count
        return ends + np.minimum(num_layers, 2.0) * widest

    def _widest(self, counts: list[Floats], unreduced_bytes: float) -> tuple[Floats, Floats]:
        """(logits, working bytes) at the peak, with so many bytes of gradient a parameter of a layer on top.

        Where a layer's gradient is not reduced at once (0 bytes), one matrix of it waits to be added to what earlier
        microbatches left. The loss and the backward pass of a layer take turns, the larger counts.
        """
        logits, working = 0.0 * counts[0], 0.0 * counts[0]
        for kind, count, load in zip(self.kinds, counts, self.loads, strict=True):
            gradient = unreduced_bytes * (load[0] + load[1]) if unreduced_bytes else load[6]
            own = load[5] + (0.0 if kind in ENDS else gradient)
            wider = (count > 0.0) & (load[4] + own > logits + working)
            logits, working = np.where(wider, load[4], logits), np.where(wider, own, working)
        return logits, working


def fullest_candidates(split: PlanGrid, job: TrainingJob, stack: SoftwareStack) -> Iterator[tuple[Floats, Floats]]:
    """(ranks, loads) of the pipeline ranks that can be the fullest, one candidate of every plan at a time.

    A later rank holds no more microbatches, so it can only be the fullest with more layers of some kind.
    Plans with fewer such ranks repeat their last one. Shapes (plans,) and (10, plans).
    """
    layers = LayerBytes.of(split, job, stack)
    rows, shape_of = combinations(split, STAGE_COLUMNS)
    also = (1,) if stack.keeps_stage_buffers else ()
    found = [_uncovered(rank_counts(job.model, split.plan(row)), also) for row in rows]
    for index in range(max((len(ranks) for ranks, _ in found), default=0)):
        picked = [(ranks[at := min(index, len(ranks) - 1)], counts[at]) for ranks, counts in found]
        ranks = np.array([rank for rank, _ in picked], dtype=float)
        table = np.stack([counts for _, counts in picked], axis=1)
        yield ranks[shape_of], layers.stage(list(table[:, shape_of]))


def rank_counts(model: ModelShape, plan: Plan) -> list[Floats]:
    """Layers of each kind (in the order of their first appearance) on each pipeline rank, over all its chunks."""
    kinds = tuple(dict.fromkeys(sequence(model)))
    return [
        np.array([sum(chunk.get(kind, 0) for chunk in chunks) for kind in kinds], dtype=float)
        for chunks in rank_chunks(model, plan.schedule, plan.pp, plan.vp, plan.layout)
    ]


def _uncovered(counts_by_rank: list[Floats], also: tuple[int, ...]) -> tuple[list[int], list[Floats]]:
    """The ranks with more layers of some kind than any before, and `also`: a rank between others receives from both."""
    ranks: list[int] = []
    counts: list[Floats] = []
    for rank, own in enumerate(counts_by_rank):
        if rank in also or not any((own <= earlier).all() for earlier in counts):
            ranks.append(rank)
            counts.append(own)
    return ranks, counts


def _layer_loads(job: TrainingJob, kind: str, split: PlanGrid, stack: SoftwareStack) -> Floats:
    """(7, plans) of one layer, the rows of `LayerBytes.loads`."""
    dense, expert = layer_parameters(job.model, kind, split)
    kept = saved_bytes(job, kind, split, stack)
    working = recomputed_bytes(job, kind, split, stack) + transient_bytes(job, kind, split, stack)
    logits: Any = 0.0
    waiting: Any = 0.0
    if kind in (HEAD, MTP):
        assert isinstance(job.model, TransformerShape)
        width = padded_vocabulary(job.model, split.tp * 1.0, stack)
        elements = split.micro_batch * job.sequence_length / (split.cp * 1.0) * width
        sharded = stack.tp_loss_bytes_per_logit or stack.loss_bytes_per_logit
        logits = np.where(split.tp > 1, sharded, stack.loss_bytes_per_logit) * elements
        # A microbatch that waits for its backward pass keeps at most the fp32 softmax of its logits.
        waiting = min(stack.loss_bytes_per_logit, FLOAT_BYTES) * elements
        if stack.weight_gradient_workspace:
            working = working + DTYPE_BYTES["bf16"] * width * job.model.hidden_size
        if not stack.fused_accumulation:
            logits, working = _fuller(
                (logits, working),
                (compute_bytes(job) * elements, working + compute_bytes(job) * width * job.model.hidden_size),
            )
    beside = 0.0 if stack.fused_accumulation or kind in ENDS else compute_bytes(job) * _widest_matrix(job.model, split)
    loads = (dense, expert, kept, waiting, logits, working, beside)
    return np.stack([np.broadcast_to(np.asarray(load, dtype=float), len(split)) for load in loads])


def _fuller(at_loss: tuple[Any, Any], at_weights: tuple[Any, Any]) -> tuple[Any, Any]:
    """(logits, working bytes) of the head at its fuller moment: in the loss, or when only the gradient of the logits
    is left and makes the weight gradient."""
    later = np.greater(sum(at_weights), sum(at_loss))
    return np.where(later, at_weights[0], at_loss[0]), np.where(later, at_weights[1], at_loss[1])


def _widest_matrix(model: ModelShape, split: PlanGrid) -> Any:
    """Elements of the largest weight of a dense layer on a rank: of QKV, or of one feed-forward product."""
    if isinstance(model, LayerList) or model.mla or model.moe:
        return 0.0
    rows = (model.num_heads + 2.0 * model.num_kv_heads) * model.head_dim
    return model.hidden_size * np.maximum(rows, model.ffn_size) / (split.tp * 1.0)


def _dummy_gradients(model: ModelShape, kind: str, split: PlanGrid) -> dict[str, Floats]:
    """Bytes of one bf16 gradient of every distinct weight of a layer kind, by the part that holds it."""
    if isinstance(model, LayerList) or kind in ENDS:
        return {}
    tp, width = split.tp * 1.0, DTYPE_BYTES["bf16"]
    parts = {"attention": attention_parameters(model, tp)}
    if kind == "moe":
        assert model.moe is not None
        parts["expert"] = ffn_parameters(model, model.moe.expert_ffn_size, split.etp * 1.0)
        parts["shared expert"] = ffn_parameters(model, model.moe.shared_width, tp)
    else:
        parts["feed-forward"] = ffn_parameters(model, model.ffn_size, tp)
    return {name: width * held for name, held in parts.items()}


def _union(dummies: tuple[dict[str, Floats], ...], counts: list[Floats]) -> Any:
    """Bytes of the parts that any layer of the stage has, each once."""
    total: Any = 0.0
    for name in dict.fromkeys(name for parts in dummies for name in parts):
        present = [np.where(count > 0.0, parts[name], 0.0)
                   for parts, count in zip(dummies, counts, strict=True) if name in parts]  # fmt: skip
        total = total + np.maximum.reduce(present)
    return total
