"""What the traced program does in its own way, whatever the stack: fields of a stack, and how torch has them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from planner.plan import Plan
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob


@dataclass(frozen=True, slots=True)
class Way:
    """A field of `SoftwareStack`, its value in the traced program, and what that means."""

    field: str
    value: Any
    words: str


_WAYS = (
    Way("regathers_inputs", False, "torch keeps the gathered inputs of tensor-parallel parts; the stack gathers again"),
    Way("p2p_scatter_gather", False, "torch sends the whole tensor between stages from every tp rank"),
    Way("recompute_stops_early", True, "torch's checkpoint stops before the last product of a layer"),
    Way("fused_elementwise", False, "eager torch keeps the activated gate too"),
    Way("composed", (), "norms, positions and gates of the traced program are each one operation"),
    Way("dropout", False, "no dropout is traced"),
    Way("attention_kernel", "flash-2", "torch's fused attention keeps no scores"),
    Way("moment_bytes", 4.0, "torch's optimizer keeps moments in fp32"),
    Way("gradient_copy_bytes", 0.0, "no second copy of gradients is traced"),
    Way("optimizer_gradient_bytes", 0.0, "torch's optimizer keeps no copy of gradients"),
    Way("loss_bytes_per_logit", 14.0, "torch's cross-entropy keeps an fp32 log-softmax"),
    Way("expert_dispatch", "all_to_all", "tokens travel to experts by plain all-to-all"),
)


def ways(job: TrainingJob, plan: Plan, stack: SoftwareStack) -> Iterator[Way]:
    """Where the traced program differs from `stack`, one field after the other."""
    sharded = plan.zero_stage == 3 and job.precision != "fp32"
    words = "FSDP2 keeps fp32 shards and no copy" if sharded else "parameters are stored as the model computes"
    for way in (*_WAYS, Way("fp32_parameters", sharded, words)):
        if getattr(stack, way.field) != way.value:
            yield way
