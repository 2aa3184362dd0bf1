"""Which software stack a published run used, from what its source says of framework, kernels and flags."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from profiles import catalog
from profiles.software import SoftwareStack
from validate.runs.table import Run

Reading = Literal["allocated", "reserved", "device"]


@dataclass(frozen=True, slots=True)
class Framework:
    """A rule: runs whose framework matches use the named stack; what they leave unsaid is assumed so."""

    pattern: str
    """Searched in `framework | attention_kernel | precision | other_flags | accelerator | sparse or dense`,
    ignoring case."""
    stack: str
    sequence_parallel: bool = False
    """Assumed for tensor-parallel runs that do not say."""
    zero_stage: int = 0
    """Assumed where the source does not say."""
    interleaves: bool = False
    """Its recipes interleave stages, also where the source does not say how often."""
    runs_fsdp: bool = False
    """It shards with PyTorch's FSDP, whose stage 2 (SHARD_GRAD_OP) keeps parameters between the passes."""
    whole_experts: bool = False
    """Its recipes do not split an expert over ranks (expert tensor parallelism of 1); else as the dense parts."""
    memory: Reading = "device"
    """What its own logs call peak memory; "device" where it logs none, and people read the device's tool."""
    whole_batch: bool = False
    """It has no gradient accumulation, or none by default: an unstated microbatch is a rank's share of the batch,
    and what remains of the devices an unstated degree of data parallelism."""


_SINCE_HOPPER = r"(?:H[128]00|H20\b|B[23]00|G[BH][23]00|MI3)"
"""At the end of a pattern: accelerators that came when Megatron-LM had Transformer Engine and flash attention."""

RULES = (
    Framework(r"^(hf[^|]*deepspeed|deepspeed[^|]*\(hf\))", "deepspeed-zero3"),
    Framework(r"^hf |\(hf\)", "pytorch-eager"),
    Framework(r"^[^|]*deepspeed[^|]*\|[^|]*\| bf16", "megatron-deepspeed-bf16-2022"),
    Framework(r"^[^|]*deepspeed", "megatron-deepspeed-2022"),
    Framework(
        r"^megatron-bridge[^|]* 26\.0[6-9].*\| mxfp8 \|.*\| GB[23]00[^|]*\| sparse",
        "megatron-bridge-full-graph",
        True,
        1,
        whole_experts=True,
    ),
    Framework(r"^megatron-bridge.*\| H[12]00[^|]*\| sparse", "megatron-bridge-overlap", True, 1, whole_experts=True),
    Framework(r"^megatron-bridge.*\| B[23]00[^|]*\| sparse", "megatron-bridge-eager", True, 1, whole_experts=True),
    Framework(r"^megatron-bridge.*\| sparse", "megatron-bridge", True, 1, whole_experts=True),
    Framework(r"^megatron-bridge", "nemo", True, 1, True),
    Framework(r"^[^|]*(nemo|mlperf[^|]*nvidia|nvidia[^|]*mlperf)", "nemo", True, 1, True),
    Framework(r"^primus", "megatron-core", True, 1, True),
    Framework(r"^megatron-lm[^|]*(te |transformer engine|core)", "megatron-core-no-overlap", True, 1),
    Framework(r"^megatron-lm[^|]*\| [^|]*flash", "megatron-core-no-overlap", True, 1),
    Framework(rf"^megatron-lm.*\| {_SINCE_HOPPER}", "megatron-core-no-overlap", True, 1),
    Framework(r"^megatron-lm", "megatron-lm-2022"),
    Framework(rf"^[^|]*megatron.*\| {_SINCE_HOPPER}", "megatron-core-no-overlap", True, 1),
    Framework(r"^[^|]*megatron", "megatron-lm-2022"),
    Framework(r"^[^|]*gpt-neox", "megatron-deepspeed-2022"),
    Framework(
        r"^torchtitan.*(torch\.compile|float8)", "torchtitan", True, runs_fsdp=True, whole_batch=True, memory="reserved"
    ),
    Framework(r"^torchtitan", "torchtitan-eager", True, runs_fsdp=True, whole_batch=True, memory="reserved"),
    Framework(r"^[^|]*(maxtext|levanter)", "jax-flash", zero_stage=3, whole_batch=True),
    Framework(r"^[^|]*(jax|pax\b|t5x|easylm|alpa|parax)", "jax-2022", whole_batch=True),
    Framework(r"^llm-foundry.*MP mode DEFAULT", "llm-foundry", runs_fsdp=True),
    Framework(r"^llm-foundry", "llm-foundry-2023", runs_fsdp=True),
    Framework(r"^[^|]*fms-fsdp", "fms-fsdp", runs_fsdp=True),
    Framework(r"^pytorch.*fsdp.*torch\.compile", "torchtitan", runs_fsdp=True),
    Framework(r"^internevo", "internevo", zero_stage=1),
    Framework(r"^(pytorch|sailor|nanotron|colossal)", "pytorch-eager"),
)
"""The first rule that matches counts."""

_FLAGS: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"cross-entropy fusion", {"loss_bytes_per_logit": 2.0, "loss_traffic_bytes_per_logit": 10.0}),
    (r"liger", {"loss_bytes_per_logit": 0.13, "loss_traffic_bytes_per_logit": 10.0, "fused_elementwise": True}),
    (r"overlap-grad-reduce", {"dp_overlap": True}),
    (r"no gradient bucketing", {"dp_overlap": False}),
    (r"tp-comm-overlap|async ?tp", {"tp_exposed_fraction": 0.5}),
    (r"p2p overlap", {"pp_overlap": True}),
)
"""What a run's own flags change in its stack."""


def framework_of(run: Run) -> Framework | None:
    """The first rule that matches the run, or None when no stack describes its framework."""
    said = (
        run.framework,
        run.attention_kernel,
        run.precision,
        run.other_flags,
        run.accelerator,
        "sparse" if run.num_experts else "dense",
    )
    text = " | ".join(said)
    return next((rule for rule in RULES if re.search(rule.pattern, text, re.IGNORECASE)), None)


def stack_of(run: Run, rule: Framework) -> SoftwareStack:
    """The stack of a run: the rule's, with what the run's attention kernel and flags say otherwise."""
    stack = catalog.software(rule.stack)
    changes: dict[str, Any] = {}
    kernel = run.attention_kernel.lower()
    if "unfused" in kernel:
        changes["attention_kernel"] = "unfused"
    elif "flash" in kernel and stack.attention_kernel == "unfused":
        changes["attention_kernel"] = "flash-2"
    for pattern, update in _FLAGS:
        if re.search(pattern, run.other_flags, re.IGNORECASE):
            changes |= update
    return stack.model_copy(update=changes) if changes else stack
