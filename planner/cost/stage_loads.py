"""What one microbatch and one set of layers put on a pipeline rank, before schedule and sharding multiply it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.cost.grid import combinations
from planner.plan import PlanGrid
from planner.work.activations import FLOAT_BYTES, recomputed_bytes, saved_bytes, transient_bytes
from planner.work.blocks import attention_parameters, ffn_parameters, padded_vocabulary
from planner.work.layers import layer_parameters, sequence, stage_counts
from profiles.model import LayerList, ModelShape, TransformerShape
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]

LOAD_COLUMNS = ("tp", "cp", "ep", "etp", "pp", "vp", "micro_batch", "recompute", "sequence_parallel")
"""Plan fields the loads of a stage depend on."""


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Loads of every layer kind of a model, for the plans of a grid."""

    kinds: tuple[str, ...]
    loads: tuple[Floats, ...]
    """By kind, (6, plans): dense and expert parameters, kept bytes, waiting logits; logits, working bytes."""
    dummies: tuple[dict[str, Floats], ...]
    """By kind: bytes of the dummy weight gradients of a layer, by the part they belong to."""

    @classmethod
    def of(cls, split: PlanGrid, job: TrainingJob, stack: SoftwareStack) -> "LayerBytes":
        """Work out every kind once."""
        kinds = tuple(dict.fromkeys(sequence(job.model)))
        dummies = tuple(_dummy_gradients(job.model, kind, split) for kind in kinds)
        return cls(
            kinds,
            tuple(_layer_loads(job, kind, split, stack) for kind in kinds),
            dummies if stack.weight_gradient_workspace else (),
        )

    def stage(self, counts: list[Floats]) -> Floats:
        """Loads, (6, plans), of a rank with `counts` layers of each kind.

        Dense and expert parameters, kept bytes and logits of a waiting microbatch; logits and working bytes at
        the peak: the loss and the backward pass of a layer take turns, the larger counts.
        """
        sums = np.add.reduce([count * load[:4] for count, load in zip(counts, self.loads, strict=True)])
        logits, working = np.zeros(sums.shape[1]), np.zeros(sums.shape[1])
        for count, load in zip(counts, self.loads, strict=True):
            wider = (count > 0.0) & (load[4] + load[5] > logits + working)
            logits, working = np.where(wider, load[4], logits), np.where(wider, load[5], working)
        return np.stack([*sums, logits, working + _union(self.dummies, counts)])


def fullest_candidates(split: PlanGrid, job: TrainingJob, stack: SoftwareStack) -> Iterator[tuple[Floats, Floats]]:
    """(ranks, loads) of the pipeline ranks that can be the fullest, one candidate of every plan at a time.

    A later rank holds no more microbatches, so it can only be the fullest with more layers of some kind.
    Plans with fewer such ranks repeat their last one. Shapes (plans,) and (6, plans).
    """
    layers = LayerBytes.of(split, job, stack)
    rows, shape_of = combinations(split, ("pp", "vp"))
    found = [_uncovered(rank_counts(job.model, int(split.pp[row]), int(split.vp[row]))) for row in rows]
    for index in range(max((len(ranks) for ranks, _ in found), default=0)):
        picked = [(ranks[at := min(index, len(ranks) - 1)], counts[at]) for ranks, counts in found]
        ranks = np.array([rank for rank, _ in picked], dtype=float)
        table = np.stack([counts for _, counts in picked], axis=1)
        yield ranks[shape_of], layers.stage(list(table[:, shape_of]))


def rank_counts(model: ModelShape, num_stages: int, vp: int) -> list[Floats]:
    """Layers of each kind (in the order of their first appearance) on each pipeline rank, over all its chunks."""
    kinds = tuple(dict.fromkeys(sequence(model)))
    chunks = stage_counts(model, num_stages * vp)
    return [
        np.array([sum(chunk.get(kind, 0) for chunk in chunks[rank::num_stages]) for kind in kinds], dtype=float)
        for rank in range(num_stages)
    ]


def _uncovered(counts_by_rank: list[Floats]) -> tuple[list[int], list[Floats]]:
    ranks: list[int] = []
    counts: list[Floats] = []
    for rank, own in enumerate(counts_by_rank):
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
