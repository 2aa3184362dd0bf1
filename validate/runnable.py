"""What to run for real, and whether `validate` can: decided without torch; a refusal says why."""

from dataclasses import asdict, dataclass
from typing import Any

from planner.offload import Offload
from planner.order import USUAL_ORDER
from planner.plan import Plan
from planner.recompute import Module, Recompute
from planner.work.schedules import SCHEDULES
from profiles.exchange import Exchange
from profiles.model import LayerList, TransformerShape
from profiles.workload import TrainingJob

RUNNABLE_PRECISIONS = ("fp32", "bf16")
RUNNABLE_SCHEDULES = ("gpipe", "1f1b", "interleaved", "breadth-first", "zb-h1", "zb-v", "dualpipe-v")
"""Those of torch.distributed.pipelining; it has neither ZB-H2 nor DualPipe."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What every rank of one launch is told."""

    job: TrainingJob
    plan: Plan
    num_warmup: int = 3
    num_steps: int = 10
    measure_memory: bool = False
    """Return freed memory at once and report the peak; slows the steps, so ask for it in a launch of its own."""
    count_messages: bool = False
    """Run one more step and report what each rank sent in it."""
    seed: int = 1234
    device: str = "auto"
    """"cpu", "cuda", or "auto": CUDA when there is a GPU for every local rank."""
    collective_timeout_seconds: float = 60.0

    def to_json(self) -> dict[str, Any]:
        """Plain values, for another process."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {"job": self.job.model_dump(mode="json"), "plan": asdict(self.plan)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RunSpec":
        """The inverse of `to_json`."""
        plan = Plan(
            **(
                values["plan"]
                | {
                    "recompute": Recompute(values["plan"]["recompute"]),
                    "recompute_modules": Module(values["plan"]["recompute_modules"]),
                    "layout": _tuples(values["plan"]["layout"]),
                    "placement": _tuples(values["plan"]["placement"]),
                    "offload": Offload(values["plan"]["offload"]),
                }
            )
        )
        return cls(**(values | {"job": TrainingJob.model_validate(values["job"]), "plan": plan}))


def _tuples(value: Any) -> Any:
    """Lists, which is how JSON writes tuples, as tuples at every depth."""
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def is_runnable(job: TrainingJob, plan: Plan) -> bool:
    """Whether `check_runnable` has nothing to say."""
    try:
        check_runnable(job, plan)
    except ValueError:
        return False
    return True


def check_runnable(job: TrainingJob, plan: Plan) -> None:
    """Raise ValueError, naming the field, its value and what would be right, when `plan` of `job` cannot be run."""
    _check_model(job)
    _check_split(job, plan)
    assert isinstance(job.model, TransformerShape)
    for axis, field, size in (
        ("tp", "num_heads", job.model.num_heads),
        ("tp", "num_kv_heads", job.model.num_kv_heads),
        ("tp", "ffn_size", job.model.ffn_size),
        ("tp", "vocabulary_size", job.model.vocabulary_size),
        ("cp_a2a", "num_heads / tp", job.model.num_heads // plan.tp),
        ("cp_a2a", "num_kv_heads / tp", job.model.num_kv_heads // plan.tp),
    ):
        if size % getattr(plan, axis):
            raise ValueError(f"{axis}: {getattr(plan, axis)} does not divide {field}, which is {size}")


def _check_model(job: TrainingJob) -> None:
    model = job.model
    if isinstance(model, LayerList):
        raise ValueError(f"model: {model.name} is a list of layers; validate runs decoder or encoder transformers")
    refused = {
        "mla": model.mla is not None,
        "num_encoder_layers": model.num_encoder_layers > 0,
        "qk_norm": model.qk_norm,
        "norms_per_layer": model.norms_per_layer != 2,
        "sliding_window": model.sliding_window is not None and model.sliding_window < job.sequence_length,
        "num_extra_parameters": model.num_extra_parameters > 0,
        "num_mtp_modules": model.num_mtp_modules > 0,
    }
    found = [name for name, present in refused.items() if present]
    if found:
        raise ValueError(
            f"model: {model.name} has {', '.join(found)}, which the GPT of validate does not build; "
            "take a dense transformer of one stack with two norms a layer"
        )
    if not model.num_learned_positions and model.head_dim % 2:
        raise ValueError(f"head_dim: rotary positions turn pairs and need an even number, got {model.head_dim}")
    if 0 < model.num_learned_positions < job.sequence_length:
        raise ValueError(
            f"sequence_length: {job.sequence_length} exceeds the {model.num_learned_positions} learned positions"
        )
    if job.precision not in RUNNABLE_PRECISIONS:
        raise ValueError(f"precision: validate runs {' or '.join(RUNNABLE_PRECISIONS)}, not {job.precision}")
    exchange = job.exchange
    if exchange != Exchange():
        raise ValueError(
            "gradient_compression, synchronization, gather_precision: validate runs none, all-reduce and model, "
            f"got {exchange.gradient_compression}, {exchange.synchronization} and {exchange.gather_precision}"
        )


def _check_split(job: TrainingJob, plan: Plan) -> None:
    if plan.placement:
        raise ValueError("placement: validate gives ranks to devices in their order; leave it out")
    if plan.order != USUAL_ORDER:
        raise ValueError(f"order: validate numbers ranks {USUAL_ORDER}, got order={plan.order}")
    _check_recomputation(plan)
    if plan.offload:
        raise ValueError(f"offload: validate keeps everything on the device (nothing), got {plan.offload.words}")
    if job.global_batch % (plan.dp * plan.micro_batch):
        raise ValueError(
            f"global_batch: {job.global_batch} is not a multiple of dp x micro_batch = {plan.dp * plan.micro_batch}"
        )
    ring = plan.cp // plan.cp_a2a
    pieces = 2 * ring * plan.cp_a2a if plan.cp > 1 else 1
    if job.sequence_length % (pieces * (plan.tp if plan.sequence_parallel else 1)):
        raise ValueError(
            f"sequence_length: {job.sequence_length} tokens do not divide into 2 x cp pieces (an early and a late one "
            f"a rank) and, under sequence parallelism, tp: cp={plan.cp}, tp={plan.tp}"
        )
    _check_experts(job, plan)
    _check_pipeline(job, plan)


def _check_recomputation(plan: Plan) -> None:
    dropped = plan.recompute_modules & ~_RECOMPUTED_MODULES
    if plan.recompute == Recompute.SELECTIVE and dropped:
        raise ValueError(
            f"recompute_modules: validate recomputes {_RECOMPUTED_MODULES.words}; torch's checkpoint cannot drop the "
            f"mere output of {dropped.words}"
        )
    if plan.recompute == Recompute.OPERATORS and max(plan.tp, plan.cp, plan.ep) > 1:
        raise ValueError(
            "recompute: by operators torch would repeat what tp, cp and ep send, which Plan keeps; "
            f"got tp={plan.tp}, cp={plan.cp}, ep={plan.ep}"
        )


_RECOMPUTED_MODULES = Module.CORE_ATTN | Module.MLP | Module.MOE | Module.SHARED_EXPERTS


def _check_experts(job: TrainingJob, plan: Plan) -> None:
    assert isinstance(job.model, TransformerShape)
    moe = job.model.moe
    if plan.etp > 1:
        raise ValueError(f"etp: validate runs whole experts (1), got {plan.etp}")
    if moe is None:
        if plan.ep > 1:
            raise ValueError(f"ep: {job.model.name} has no experts to spread, got ep={plan.ep}")
        return
    if plan.tp > 1:
        raise ValueError(f"tp: validate runs a mixture of experts under dp, cp, ep and pp only, got tp={plan.tp}")
    if job.model.linear_bias:
        raise ValueError(f"model: {job.model.name} has experts with biases; validate stacks their matrices without")
    if moe.num_experts % plan.ep or plan.dp * plan.cp % plan.ep:
        raise ValueError(
            f"ep: {plan.ep} does not divide the {moe.num_experts} experts and dp x cp = {plan.dp * plan.cp}"
        )
    num_copies = plan.dp * plan.cp // plan.ep
    if plan.zero_stage == 3 and plan.dp_replicate > 1 and num_copies <= plan.dp_replicate:
        raise ValueError(
            f"dp_replicate: {plan.dp_replicate} groups leave experts unsharded, {num_copies} ranks hold each of them"
        )
    if job.busiest_load_factor != 1.0 or job.expert_capacity_factor:
        raise ValueError(
            "expert_load_factor, expert_capacity_factor: validate routes as its router says, without drops"
        )


def _check_pipeline(job: TrainingJob, plan: Plan) -> None:
    model = job.model
    assert isinstance(model, TransformerShape)
    if plan.pp == 1:
        if plan.vp > 1:
            raise ValueError(f"vp: virtual stages need pp > 1, got vp={plan.vp}")
        return
    if plan.schedule not in RUNNABLE_SCHEDULES:
        raise ValueError(
            f"schedule: torch.distributed.pipelining has {', '.join(RUNNABLE_SCHEDULES)}, but no {plan.schedule}"
        )
    num_microbatches = plan.num_microbatches(job.global_batch)
    if num_microbatches < plan.pp:
        raise ValueError(
            f"pp: {plan.pp} stages need at least {plan.pp} microbatches a step, got {num_microbatches}; "
            "raise global_batch or lower micro_batch"
        )
    SCHEDULES[plan.schedule].actions(plan.pp, num_microbatches, plan.vp)
    num_chunks = plan.pp * plan.vp
    if model.num_layers < num_chunks:
        raise ValueError(f"pp: {num_chunks} stages need as many layers, the model has {model.num_layers}")
    if plan.zero_stage == 3 and plan.reshard_after_forward and SCHEDULES[plan.schedule].splits_backward:
        raise ValueError(
            f"reshard_after_forward: {plan.schedule} runs a backward pass in two parts, between which parameters stay "
            "gathered; set it to false"
        )
    if plan.layout and 0 in plan.layout:
        raise ValueError(f"layout: validate runs at least one layer a chunk, got {list(plan.layout)}")
    if model.tied_embeddings:
        raise ValueError("tied_embeddings: validate ties them on one stage only; take pp=1 or an untied model")
