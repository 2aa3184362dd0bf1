"""What one rank sees of a microbatch, a step of its work, and the pieces that parts of a layer share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from planner.plan import Plan, PlanGrid
from planner.recompute import Module
from planner.work.ops import Elementwise, Gemm, GroupedGemm, Kernel, Message, Numbers, Op
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES
from profiles.workload import TrainingJob


@dataclass(frozen=True, slots=True)
class Step:
    """An operation of the forward pass and those of its backward pass, run `count` times (of most 0 or 1, by plan)."""

    op: Op
    backward: tuple[Op, ...] = ()
    count: Numbers = 1.0
    is_core: bool = False
    """Belongs to the attention core."""
    modules: Module = Module.NOTHING
    """Parts of the layer it belongs to, beside the core; selective recomputation runs some of them again."""
    again_fraction: Numbers = 1.0
    """Share of it that recomputation by operators runs again."""
    weight_gradient: tuple[Op, ...] = ()
    """The rest of the backward pass, which no other layer waits for."""

    @classmethod
    def of(cls, kernel: Kernel, *, is_core: bool = False) -> "Step":
        """A compute kernel with its own backward pass."""
        return cls(kernel, kernel.backward(), is_core=is_core)


def within(modules: Module, steps: Iterable[Step]) -> list[Step]:
    """The steps as parts of `modules`, beside those they belong to already."""
    return [replace(step, modules=step.modules | modules) for step in steps]


@dataclass(frozen=True, slots=True)
class BlockScaling:
    """A narrow format with a scale for every few elements along one direction of a matrix.

    The weight gradient reads inputs and gradients along the other direction, so that each is quantised again: read
    as bf16 and written narrow, with its scales [NVIDIA, Transformer Engine: MXFP8Quantizer, NVFP4Quantizer].
    """

    extra_bytes_per_element: float
    """Traffic of the second layout, beyond the conversion that every narrow format needs."""


BLOCK_SCALING: Mapping[str, BlockScaling] = {
    "mxfp8": BlockScaling(1.0 + 1.0 / 32.0),
    "nvfp4": BlockScaling(2.0 + 2.0 + 0.5 + 1.0 / 16.0),
}
"""By precision. MXFP8 writes both layouts in one pass; NVFP4 reads once for the scale of the tensor, and once more for
what the weight gradient reads (a random Hadamard transform and the conversion in one kernel)."""


NARROW_BYTES: Mapping[str, float] = {"fp8": 1.0, "mxfp8": 1.0 + 1.0 / 32.0, "nvfp4": 0.5 + 1.0 / 16.0}
"""Bytes of an element, with its share of the scales, by precision."""


@dataclass(frozen=True, slots=True)
class Shard:
    """What one rank sees of a microbatch, and how the stack runs it."""

    sequences: Numbers
    query_length: Numbers
    key_length: Numbers
    tp: Numbers
    cp: Numbers
    ep: Numbers
    etp: Numbers
    cp_a2a: Numbers
    cp_gather: Numbers
    norm: str
    """Kind of the model's norms."""
    sequence_parallel: Numbers
    dtype: str
    lora_rank: int
    """Rank of trained adapters beside frozen weights; 0: all weights are trained."""
    load_factor: float
    """Rows on the busiest expert-parallel rank over the mean."""
    scaling: BlockScaling | None
    """How a narrow format with a scale for every few elements is made; None for other formats."""
    width: float
    """Bytes of one activation element."""
    kept_product_bytes: float
    """Bytes of one as it is kept for a product that reads it."""
    kept_act_bytes: float
    """The same for an activation function."""
    stack: SoftwareStack

    @classmethod
    def of(cls, job: TrainingJob, split: Plan | PlanGrid, stack: SoftwareStack) -> "Shard":
        """The shard of one rank under `split`; degrees are floats so that products never overflow."""
        width = 4.0 if job.precision == "fp32" else 2.0
        narrow = NARROW_BYTES.get(job.precision, width)
        return cls(
            sequences=split.micro_batch * 1.0,
            query_length=job.sequence_length / (split.cp * 1.0),
            key_length=float(job.sequence_length),
            tp=split.tp * 1.0,
            cp=split.cp * 1.0,
            ep=split.ep * 1.0,
            etp=split.etp * 1.0,
            cp_a2a=split.cp_a2a * 1.0,
            cp_gather=split.cp_gather * 1.0,
            norm=getattr(job.model, "norm", "layer_norm"),
            sequence_parallel=split.sequence_parallel * 1.0,
            dtype=gemm_dtype(job),
            lora_rank=job.lora_rank,
            load_factor=job.busiest_load_factor,
            scaling=BLOCK_SCALING.get(job.precision),
            width=width,
            kept_product_bytes=width if stack.narrow_saved == "nothing" else narrow,
            kept_act_bytes=narrow if stack.narrow_saved == "activation inputs" else width,
            stack=stack,
        )

    @property
    def keeps_gate(self) -> bool:
        """Whether the activated gate of a gated activation is kept beside its product with what it gates."""
        return not self.stack.fused_elementwise or "gate" in self.stack.composed

    @property
    def tokens(self) -> Numbers:
        """Tokens of the microbatch on this rank."""
        return self.sequences * self.query_length

    @property
    def outside_tokens(self) -> Numbers:
        """Tokens outside the tensor-parallel parts: sharded over tp under sequence parallelism."""
        return self.tokens / np.where(self.sequence_parallel > 0, self.tp, 1.0)

    @property
    def expert_gathered(self) -> Numbers:
        """Ranks whose tokens meet at every expert shard: etp, or 1 where tp ranks hold the same tokens already."""
        alike = np.logical_and(np.greater(self.tp, 1.0), np.equal(self.sequence_parallel, 0.0))
        return np.where(alike, 1.0, self.etp)

    @property
    def expert_tokens(self) -> Numbers:
        """Tokens whose copies the expert shards of the busiest rank compute."""
        return self.outside_tokens * self.expert_gathered * self.load_factor

    def linear(
        self,
        inputs: Numbers,
        outputs: Numbers,
        tokens: Numbers | None = None,
        batch: Numbers = 1.0,
        again_fraction: Numbers = 0.5,
    ) -> Step:
        """A linear layer of `inputs` x `outputs` features over the rank's tokens.

        Its weight gradient is added to what earlier microbatches left: by the product itself, or after it. The
        curves of products hold one conversion of their inputs; a block-scaled format needs more (`BlockScaling`).
        Recomputation by operators keeps every second product, half of one on average.
        """
        rows = self.tokens if tokens is None else tokens
        product = Gemm(rows, outputs, inputs, batch, self.dtype)
        added = self.stack.accumulation_traffic_bytes_per_parameter * inputs * outputs
        data, weight = product.backward()
        weights: tuple[Op, ...] = (weight, Elementwise(batch * added, in_place=True))
        if self.stack.fused_accumulation:
            weights = (replace(weight, extra_bytes=added),)
        if self.scaling is not None:
            extra = self.scaling.extra_bytes_per_element * batch * rows * (inputs + outputs)
            weights = (Elementwise(extra, num_launches=2.0), *weights)
        return Step(product, (data,), again_fraction=again_fraction, weight_gradient=() if self.lora_rank else weights)

    def adapted(
        self, inputs: Numbers, outputs: Numbers, tokens: Numbers | None = None, again_fraction: Numbers = 0.5
    ) -> list[Step]:
        """A linear layer with its adapter, if adapters are trained: down to the rank, up, and added to the output."""
        layer = self.linear(inputs, outputs, tokens, again_fraction=again_fraction)
        if not self.lora_rank:
            return [layer]
        rows = self.tokens if tokens is None else tokens
        steps = [layer]
        dtype = self.dtype if DTYPE_BYTES[self.dtype] >= self.width else "bf16"
        pair = (Gemm(rows, self.lora_rank, inputs, 1.0, dtype), Gemm(rows, outputs, self.lora_rank, 1.0, dtype))
        for narrow in pair:
            data, weight = narrow.backward()
            steps.append(Step(narrow, (data,), weight_gradient=(weight,)))
        return [*steps, self.traffic(rows * outputs, 3.0, 1.0)]

    def grouped_linear(self, inputs: Numbers, outputs: Numbers, rows: Numbers, experts: Numbers) -> list[Step]:
        """As `linear`, of `rows` that each meet one of the rank's `experts` weights; a single one is a plain product.

        In a narrow format rows are read as bf16 and written twice, by rows and by columns, since the weight
        gradient needs the other layout, forward as inputs and backward as gradients; products leave in bf16
        [NVIDIA, Transformer Engine: MXFP8Quantizer]. The curves of dense products have this in them.
        """
        launches = experts if self.stack.loops_over_experts else 1.0
        product = GroupedGemm(rows, outputs, inputs, experts, self.dtype, launches)
        added = self.stack.accumulation_traffic_bytes_per_parameter * inputs * outputs
        data, weight = product.backward()
        weights: tuple[Op, ...] = (weight, Elementwise(experts * added, in_place=True))
        if self.stack.fused_accumulation:
            weights = (replace(weight, extra_bytes=added),)
        several = np.greater(experts, 1.0) * 1.0
        frozen = bool(self.lora_rank)
        linear = Step(product, (data,), several, again_fraction=0.5, weight_gradient=() if frozen else weights)
        alone = replace(self.linear(inputs, outputs, rows), count=1.0 - several)
        narrow = DTYPE_BYTES[self.dtype]
        if narrow >= self.width:
            return [linear, alone]
        quantised, widened = self.width + 2.0 * narrow, self.width - narrow
        forward = rows * (quantised * inputs + widened * outputs)
        backward = rows * (quantised * outputs + widened * inputs)
        quantise = Elementwise(forward, backward)
        return [Step(quantise, quantise.backward(), several), linear, alone]

    def move_rows(self, elements: Numbers, num_passes: float, launches: float = 1.0) -> Step:
        """Rows read and written at computed places, `num_passes` times in all; backward the other way."""
        moved = self.width * elements * num_passes
        kernel = Elementwise(moved, moved, launches, launches, rate_fraction=self.stack.row_move_efficiency_fraction)
        return Step.of(kernel)

    def composed(self, elements: Numbers, operation: str) -> Step:
        """An operation on `elements` that eager PyTorch puts together from small kernels."""
        forward, backward, launches, backward_launches = COMPOSED[operation]
        scale = self.width * elements
        return Step.of(Elementwise(scale * forward, scale * backward, launches, backward_launches))

    def traffic(self, elements: Numbers, forward: float, backward: float, launches: float = 1.0) -> Step:
        """A memory-bound kernel: element reads and writes per element of each direction."""
        scale = self.width * elements
        rate = self.stack.elementwise_efficiency_fraction
        kernel = Elementwise(scale * forward, scale * backward, launches, launches, rate_fraction=rate)
        return Step.of(kernel)


COMPOSED: Mapping[str, tuple[float, float, float, float]] = {
    "rms_norm": (7.0, 21.0, 6.0, 16.0),
    "rotary": (9.0, 12.0, 23.0, 20.0),
    "ring": (9.0, 54.0, 14.0, 28.0),
    "trade": (4.0, 4.0, 4.0, 4.0),
    "gate": (5.0, 9.0, 2.0, 3.0),
}
"""Reads and writes per element, forward and backward, and launches, likewise, of operations without a kernel of their
own, where nothing is converted (torch 2.13 on CPUs). RMS norm: a square, a mean, a root and two products, and through
all of them backward. Rotary positions of queries and keys: four products of halves, their sum and difference, and the
halves joined, with nine launches for the angles. A step of a ring: two partial outputs rescaled and added (ten
kernels, and copies of queries, keys and values before); backward, inputs of two blocks copied, and three gradients
added of each. A trade of heads for tokens: laid out by rank before the message, and by head behind it. A gated
activation: the function, and its product with what it gates."""


def gemm_dtype(job: TrainingJob) -> str:
    """The format matrix products run in."""
    return job.compute_dtype


def enter(shard: Shard, hidden: Numbers) -> list[Step]:
    """Into a tensor-parallel part: gather the sequence (again for the weight gradient, if the stack does), or copy."""
    full = shard.width * shard.tokens * hidden
    gather, scatter = _tp("all_gather", full, shard), _tp("reduce_scatter", full, shard)
    reduce = _tp("all_reduce", full, shard)
    nothing = Elementwise(0.0, 0.0, 0.0, 0.0)
    again = (gather,) if shard.stack.regathers_inputs else ()
    return [
        Step(gather, (scatter,), shard.sequence_parallel, weight_gradient=again),
        Step(nothing, (reduce,), 1.0 - shard.sequence_parallel),
    ]


def leave(shard: Shard, hidden: Numbers) -> list[Step]:
    """Out of a tensor-parallel part: sum the partial results."""
    full = shard.width * shard.tokens * hidden
    gather, scatter = _tp("all_gather", full, shard), _tp("reduce_scatter", full, shard)
    return [
        Step(scatter, (gather,), shard.sequence_parallel, again_fraction=0.0),
        Step(_tp("all_reduce", full, shard), (), 1.0 - shard.sequence_parallel),
    ]


def _tp(collective: str, num_bytes: Numbers, shard: Shard) -> Message:
    return Message("tp", collective, num_bytes, shard.stack.tp_exposed_fraction)


EAGER_NORM = {"layer_norm": (4.0, 6.0), "rms_norm": (18.0, 38.0)}
"""Reads and writes per 16-bit element, forward and backward, of norms that are not fused with their neighbours.

PyTorch has a kernel for layer norm; its RMS norm is put together from conversions to fp32 and back, a square, a mean
and two products, 36 bytes an element forward, and 76 through all of them backward (pytorch/pytorch
torch/_refs/__init__.py, rms_norm, before it got a kernel)."""


def norm(shard: Shard, hidden: Numbers) -> Step:
    """Read and write forward; read input and gradient, write gradient backward; more without fusion."""
    elements = shard.outside_tokens * hidden
    if shard.norm in shard.stack.composed:
        return shard.composed(elements, shard.norm)
    accesses = (2.0, 3.0) if shard.stack.fused_elementwise else EAGER_NORM[shard.norm]
    return shard.traffic(elements, *accesses)


def residual(shard: Shard, hidden: Numbers) -> Step:
    """Bias, dropout and residual add behind a part; a dropout mask is one byte an element."""
    elements = shard.outside_tokens * hidden
    mask = 0.5 if shard.stack.dropout else 0.0
    dropout_backward = 2.0 + mask if shard.stack.dropout else 0.0
    if shard.stack.fused_elementwise:
        return shard.traffic(elements, 3.0 + mask, 3.0 + dropout_backward)
    dropout_forward = 2.0 + mask if shard.stack.dropout else 0.0
    return shard.traffic(elements, 3.0 + dropout_forward, 3.0 + dropout_backward, 2.0)
