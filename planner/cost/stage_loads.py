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
    head_parameters: Floats
    end_parameters: Floats
    """Of embedding and head."""
    layer_parameters: Floats
    """Of the widest layer between them."""
    num_layers: Floats
    """Between them."""
    loss_bytes: Floats
    """Logits and what the loss makes of them, at its fullest."""
    loss_working_bytes: Floats
    """What lives beside them."""
    logits_bytes: Floats
    """As `loss_bytes`, when the weight gradient of the logits is made."""
    logits_working_bytes: Floats
    layer_working_bytes: Floats
    """What the widest layer adds while its backward pass runs."""
    sharded_layer_working_bytes: Floats
    """The same where its gradient is reduced and sharded as soon as it is there."""


def compute_bytes(job: TrainingJob) -> float:
    """Bytes of a parameter as layers use it: fp32, else 16 bits [Micikevicius 2017, arXiv:1710.03740, section 3.1]."""
    return DTYPE_BYTES["fp32" if job.precision == "fp32" else "bf16"]


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Loads of every layer kind of a model, for the plans of a grid."""

    kinds: tuple[str, ...]
    loads: tuple[Floats, ...]
    """By kind, (9, plans): dense and expert parameters, kept bytes, waiting logits; loss and working bytes at the loss;
    the same at the weight gradient of the logits; the widest weight gradient that is added to an accumulated one."""
    dummies: tuple[dict[str, Floats], ...]
    """By kind: bytes of the dummy weight gradients of a layer, by the part they belong to."""
    gradient_bytes: float
    """Of a parameter's gradient as a layer's backward pass makes it."""
    sent_bytes: float
    """Of the copy that is reduced and sharded."""

    @classmethod
    def of(cls, split: PlanGrid, job: TrainingJob, stack: SoftwareStack) -> "LayerBytes":
        """Work out every kind once."""
        kinds = tuple(dict.fromkeys(sequence(job.model)))
        dummies = tuple(_dummy_gradients(job.model, kind, split) for kind in kinds)
        return cls(
            kinds,
            tuple(_layer_loads(job, kind, split, stack) for kind in kinds),
            dummies if stack.weight_gradient_workspace else (),
            compute_bytes(job),
            DTYPE_BYTES["fp32"] if job.precision == "fp32" else stack.gradient_bytes,
        )

    def stage(self, counts: list[Floats]) -> Floats:
        """The rows of `StageLoads`, (15, plans), of a rank with `counts` layers of each kind."""
        sums = np.add.reduce([count * load[:4] for count, load in zip(counts, self.loads, strict=True)])
        dummies = _union(self.dummies, counts)
        (loss, loss_working), (logits, logits_working) = self._widest_end(counts, 4), self._widest_end(counts, 6)
        return np.stack([
            *sums, self.passing(counts), *self._parameters(counts), loss, loss_working + dummies,
            logits, logits_working + dummies, self._widest_layer(counts) + dummies,
            self._widest_sharded_layer(counts) + dummies,
        ])  # fmt: skip

    def passing(self, counts: list[Floats]) -> Floats:
        """Kept bytes of two layers of a rank, one whose activations are in use and one whose are on their way."""
        widest, num_layers = 0.0 * counts[0], 0.0 * counts[0]
        for count, load in zip(counts, self.loads, strict=True):
            widest = np.maximum(widest, np.where(count > 0.0, load[2], 0.0))
            num_layers = num_layers + count
        return np.minimum(num_layers, 2.0) * widest

    def _parameters(self, counts: list[Floats]) -> tuple[Floats, Floats, Floats, Floats]:
        """Parameters of the head, of both ends and of the widest layer between them; and layers between them."""
        head = ends = widest = num_layers = 0.0 * counts[0]
        for kind, count, load in zip(self.kinds, counts, self.loads, strict=True):
            parameters = load[0] + load[1]
            if kind in ENDS:
                ends = ends + count * parameters
                head = head + count * parameters * (kind == HEAD)
            else:
                widest = np.maximum(widest, np.where(count > 0.0, parameters, 0.0))
                num_layers = num_layers + count
        return head, ends, widest, num_layers

    def _widest_end(self, counts: list[Floats], row: int) -> tuple[Floats, Floats]:
        """(loss, working) bytes of the fuller of the ends that a rank holds, from a row of the loads and the next."""
        logits, working = 0.0 * counts[0], 0.0 * counts[0]
        for kind, count, load in zip(self.kinds, counts, self.loads, strict=True):
            wider = (kind in ENDS) & (count > 0.0) & (load[row] + load[row + 1] > logits + working)
            logits, working = np.where(wider, load[row], logits), np.where(wider, load[row + 1], working)
        return logits, working

    def _widest_layer(self, counts: list[Floats]) -> Floats:
        """Working bytes of the fullest layer between the ends; one matrix of its gradient waits to be added to what
        earlier microbatches left."""
        working = 0.0 * counts[0]
        for kind, count, load in zip(self.kinds, counts, self.loads, strict=True):
            own = np.where((kind not in ENDS) & (count > 0.0), load[5] + load[8], 0.0)
            working = np.maximum(working, own)
        return working

    def _widest_sharded_layer(self, counts: list[Floats]) -> Floats:
        """The same where gradients are reduced and sharded layer by layer.

        While a layer runs, what is sent of the one behind it lives, whose activations are gone; when its own are sent,
        they and their copy do.
        """
        working = 0.0 * counts[0]
        for kind, count, load in zip(self.kinds, counts, self.loads, strict=True):
            parameters = load[0] + load[1]
            whole = self.gradient_bytes * parameters
            running = load[5] + np.where(load[8] > 0.0, load[8], whole)
            sent = self.sent_bytes * parameters - load[2]
            own = np.maximum(running + np.maximum(sent, 0.0), whole + sent)
            working = np.maximum(working, np.where((kind not in ENDS) & (count > 0.0), own, 0.0))
        return working


def fullest_candidates(split: PlanGrid, job: TrainingJob, stack: SoftwareStack) -> Iterator[tuple[Floats, Floats]]:
    """(ranks, loads) of the pipeline ranks that can be the fullest, one candidate of every plan at a time.

    A later rank holds no more microbatches, so it can only be the fullest with more layers of some kind.
    Plans with fewer such ranks repeat their last one. Shapes (plans,) and (15, plans).
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
    """(9, plans) of one layer, the rows of `LayerBytes.loads`."""
    dense, expert = layer_parameters(job.model, kind, split)
    kept = saved_bytes(job, kind, split, stack)
    working = recomputed_bytes(job, kind, split, stack) + transient_bytes(job, kind, split, stack)
    loss: Any = 0.0
    waiting: Any = 0.0
    later: tuple[Any, Any] = (0.0, 0.0)
    if kind in (HEAD, MTP):
        assert isinstance(job.model, TransformerShape)
        width = padded_vocabulary(job.model, split.tp * 1.0, stack)
        elements = split.micro_batch * job.sequence_length / (split.cp * 1.0) * width
        sharded = stack.tp_loss_bytes_per_logit or stack.loss_bytes_per_logit
        loss = np.where(split.tp > 1, sharded, stack.loss_bytes_per_logit) * elements
        # A microbatch that waits for its backward pass keeps at most the fp32 softmax of its logits.
        waiting = min(stack.loss_bytes_per_logit, FLOAT_BYTES) * elements
        if not stack.fused_accumulation:
            gradient = compute_bytes(job) * width * job.model.hidden_size
            later = compute_bytes(job) * elements, working + gradient
        if stack.weight_gradient_workspace:
            working = working + DTYPE_BYTES["bf16"] * width * job.model.hidden_size
    beside = 0.0 if stack.fused_accumulation or kind in ENDS else compute_bytes(job) * _widest_matrix(job.model, split)
    loads = (dense, expert, kept, waiting, loss, working, *later, beside)
    return np.stack([np.broadcast_to(np.asarray(load, dtype=float), len(split)) for load in loads])


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
