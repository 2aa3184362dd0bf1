"""What a framework does differently from another on the same hardware: every difference is a named field."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import Field

from profiles.record import Count, Fraction, NonNegative, Positive, Sourced
from profiles.units import DTYPE_BYTES


class SoftwareStack(Sourced):
    """A training framework of some release, as far as it changes step time or memory."""

    attention_kernel: Literal["unfused", "flash-1", "flash-2", "flash-3"] = "flash-2"
    """"unfused": two batched GEMMs with softmax and dropout in memory between them."""
    fused_elementwise: bool = True
    """Bias, activation, dropout, residual and norm kernels are fused (Megatron, TE, torch.compile)."""
    composed: tuple[Literal["rms_norm", "rotary", "ring", "trade", "gate"], ...] = ()
    """Operations that the framework puts together from small kernels, each launched and moved through memory, and some
    kept for the backward pass: norms, positions, the merging of a ring's parts, layouts of traded heads,
    gated activations."""
    elementwise_efficiency_fraction: Fraction = Field(default=1.0, gt=0.0)
    """Norms, softmax, dropout and activations reach this share of the rate of a streaming kernel (an addition)."""
    host_seconds_per_launch: NonNegative = 0.0
    """Host time per operation of a step program, which an eager framework may queue as several kernels; a floor
    under device time, not an addend. 0 for captured graphs."""
    vocabulary_multiple: Count = 128
    """The vocabulary is padded to a multiple of this times tp."""
    tp_exposed_fraction: Fraction = 1.0
    """Share of tensor-parallel communication that no compute hides."""
    ep_exposed_fraction: Fraction = 1.0
    """Share of the exchange of tokens between experts that is not run beside the compute of another microbatch; where
    it is, the share of the device that it takes from that compute."""
    expert_dispatch: Literal["all_to_all", "fused", "deepep"] = "all_to_all"
    """"all_to_all": copies of tokens are sorted by destination, exchanged, and sorted again by expert. "fused": one
    kernel sends a token once to each rank that needs it and lays its copies out by expert (HybridEP), at the rates of
    NCCL; "deepep": so, at the rates measured of DeepEP."""
    expert_dispatch_precision: Literal["model", "fp8"] = "model"
    """Format in which tokens travel to experts, and gradients of what experts give; the ways back are in the model's
    ["fp8": DeepSeek-AI 2024, arXiv:2412.19437, section 3.3.3]."""
    loops_over_experts: bool = False
    """The host launches the product of each expert by itself, outside any captured graph."""
    captures_dense_parts: bool = False
    """A captured graph holds everything but the products of experts, which the host still launches."""
    row_move_efficiency_fraction: Fraction = Field(default=0.62, gt=0.0)
    """Kernels that move rows to computed places (sorting tokens) reach this share of the rate of a streaming kernel:
    .50 and .51 of the memory rate, forward and backward, where additions reach .81 (B200;
    MooreThreads/SimuMax@4dcaae513b configs/system/b200_bf16_ceperm.json)."""
    dp_overlap: bool = True
    """Gradient reduction runs beside the backward pass (and parameter gathers beside the forward pass)."""
    dp_contention_fraction: Fraction = 0.0
    """Share of its rate that compute loses while data-parallel messages run beside it, for the multiprocessors and
    the memory bandwidth they take; 1 is no effective overlap."""
    gather_copy_bytes_per_parameter: NonNegative = 0.0
    """Memory traffic of copying gathered parameters from the buffer of their message into place (FSDP2: read and
    written once in 16 bits)."""
    gather_copy_launches: NonNegative = 1.0
    """Kernels in which it does so for the parameters of a layer."""
    scatter_copy_bytes_per_parameter: NonNegative = 0.0
    """The same of laying whole gradients out for the message that scatters their sums, and of dividing them."""
    cp_overlap: bool = True
    """Keys and values that go around a ring travel beside the attention of the step before."""
    keeps_stage_buffers: bool = False
    """A pipeline stage has a buffer for what it receives of every microbatch, and keeps its outputs for their backward
    pass (torch.distributed.pipelining); else both are freed once they were used."""
    pp_overlap: bool = True
    """Sends and receives between stages run beside compute."""
    regathers_inputs: bool = True
    """Under sequence parallelism the inputs of tensor-parallel parts are kept sharded and gathered again in the
    backward pass (Megatron-LM); else they are kept whole (DTensor)."""
    schedules: tuple[str, ...] = ("1f1b", "interleaved")
    """Pipeline schedules it can run; a search offers no others (unless asked for every choice)."""
    rank_orders: tuple[str, ...] = ("tp-cp-dp-pp",)
    """Orders in which it can number ranks, the innermost axis first; a search offers no others."""
    uneven_stages: bool = False
    """Stages may hold any numbers of layers (Megatron-Core's pipeline layout); else equal ones, or equal but for
    embedding and head."""
    p2p_scatter_gather: bool = True
    """Each tensor-parallel rank sends its own 1/tp slice between stages."""
    fp32_parameters: bool = False
    """Parameters are stored in fp32 and cast where layers use them (FSDP's mixed precision): no low-precision copy
    is kept, gradients are kept in fp32, and the optimizer needs no master copy."""
    fp32_shards: bool = False
    """The same, of parameters that are fully sharded only."""
    frees_gradients: bool = False
    """Gradients are freed after the update and come again with the first backward pass (torch's `zero_grad`), unless
    they lie in buffers; else they lie in buffers that stay (Megatron-LM's main gradients)."""
    gradient_bytes: Positive = 4.0
    """Bytes per element of the gradient that is accumulated and reduced."""
    gradient_copy_bytes: NonNegative = 0.0
    """Bytes per element of a second gradient beside it (low precision, before an fp32 accumulation)."""
    moment_bytes: Positive = 4.0
    """Bytes per element of each moment of the optimizer: 4 in fp32, 2 in bf16, 1 in 8 bits (precision-aware
    optimizers; block scales of 8-bit states are under 1 % of them [Dettmers 2021, arXiv:2110.02861, section 2])."""
    optimizer_gradient_bytes: NonNegative = 0.0
    """Bytes per element of a gradient copy kept, and sharded, with the optimizer states."""
    loss_bytes_per_logit: Positive = 8.0
    """Memory held per logit at the loss (2: fused cross-entropy in place; 14: eager PyTorch)."""
    tp_loss_bytes_per_logit: Positive | None = None
    """The same where the vocabulary is sharded over tp, if that takes another loss."""
    loss_traffic_bytes_per_logit: Positive = 40.0
    """Memory traffic per logit of the forward and backward pass of the loss."""
    optimizer_traffic_bytes_per_parameter: Positive = 38.0
    """Memory traffic of the optimizer step per parameter it updates."""
    accumulation_traffic_bytes_per_parameter: NonNegative = 6.0
    """Memory traffic of adding a microbatch's weight gradient to the accumulated one."""
    fused_accumulation: bool = False
    """The product that makes a weight gradient adds it; else a kernel of its own does."""
    weight_gradient_workspace: bool = False
    """Transformer Engine keeps one dummy weight gradient per distinct weight shape."""
    narrow_saved: Literal["nothing", "product inputs", "activation inputs"] = "nothing"
    """What 8-bit and narrower training keeps in its own format between the passes: nothing, the inputs of products as
    these read them (Transformer Engine; NVIDIA/Megatron-LM@d98e8a64 megatron/core/transformer/moe/README.md), or
    those of activation functions too (its --activation-func-fp8-input-store)."""
    library_workspace_bytes: NonNegative = 0.0
    """Allocator memory of libraries and small buffers, whatever the plan (cuBLAS, rotary tables, batch)."""
    reserved_over_allocated: float = Field(default=1.05, ge=1.0, allow_inf_nan=False)
    """Allocator memory reserved over memory allocated (fragmentation), in the median of runs."""
    reserved_p90_over_median: float = Field(default=1.025, ge=1.0, allow_inf_nan=False)
    """How much more the worst tenth of runs reserve: it parts plans that fit from those that are risky. By default
    that of 23 ranks on B200 (1.079 over 1.052; MooreThreads/SimuMax@4dcaae513b docs/b200)."""
    usable_memory_fraction: Fraction = 0.985
    """Share of device memory a plan may take. Of 113 runs on the 80 GB A100 of BigScience's chronicles this share
    flags 9 of 10 that ran out of memory, and none of those that did not."""
    context_bytes: NonNegative = 0.0
    """Device memory outside the allocator on every rank: driver context and loaded kernels."""
    communicator_bytes: NonNegative = 0.0
    """Device memory outside the allocator per parallel axis in use: the buffers of its communicator."""
    recompute_stops_early: bool = False
    """Full recomputation of a layer ends once the last tensor that the backward pass reads is back, before the
    layer's last product (PyTorch's checkpoint without reentrance, since 2.1)."""
    host_copy_efficiency_fraction: Fraction = 0.87
    """Share of the device-to-host link's rate that a copy from pinned memory reaches: 55 of 63 GB/s
    (stas00/ml-engineering@744d01e1 network/README.md)."""
    host_update_seconds_per_parameter: NonNegative = 0.26e-9
    """Of an optimizer update by all cores of a host: 2.57 s for 10 billion parameters on two 24-core sockets
    [Ren 2021, ZeRO-Offload, arXiv:2101.06840, table 4]; newer hosts with more memory channels are faster."""
    selective_recompute: Literal["modules", "operators"] = "modules"
    """What the framework's selective recomputation is unless more is said: modules of a layer (the attention core), or
    every second matrix product."""
    dropout: bool = False
    """Dropout masks are computed and kept."""


def with_precisions(stack: SoftwareStack, gradients: str | None, moments: str | None) -> SoftwareStack:
    """`stack` with gradients accumulated and reduced, and moments kept, in other formats (None: as it is).

    Adding a microbatch's gradient reads and writes the accumulated one, so that its traffic changes by twice the
    difference in width; a gradient kept beside an fp32 one for its accumulation is not needed in 16 bits.
    """
    changes: dict[str, float] = {}
    if gradients is not None:
        width = DTYPE_BYTES[gradients]
        changes["gradient_bytes"] = width
        added = stack.accumulation_traffic_bytes_per_parameter + 2.0 * (width - stack.gradient_bytes)
        changes["accumulation_traffic_bytes_per_parameter"] = max(added, 2.0 * width)
        changes["gradient_copy_bytes"] = stack.gradient_copy_bytes if width > DTYPE_BYTES["bf16"] else 0.0
    if moments is not None:
        changes["moment_bytes"] = DTYPE_BYTES[moments]
    return stack.model_copy(update=changes) if changes else stack


DEFAULT_STACK = "megatron-core"
"""Stack assumed when the user names none: the most used one that supports every split planned here."""


@cache
def default_stack() -> SoftwareStack:
    """The shipped record of `DEFAULT_STACK`."""
    record = files("profiles") / "data" / "software" / f"{DEFAULT_STACK}.toml"
    return SoftwareStack(**tomllib.loads(record.read_text(encoding="utf-8")))
