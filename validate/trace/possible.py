"""Whether a plan can be traced, decided without torch; a refusal says why."""

from planner.offload import Offload
from planner.plan import Plan
from planner.recompute import Recompute
from profiles.exchange import Exchange
from profiles.model import LayerList, TransformerShape
from profiles.workload import TrainingJob

PRECISIONS = ("fp32", "bf16", "fp16")
SCHEDULES = ("gpipe", "1f1b", "interleaved", "breadth-first", "zb-h1", "zb-v", "dualpipe-v")
"""Those that torch.distributed.pipelining has; ZB-H1 is its interleaved zero-bubble schedule with one chunk a rank."""


def check_traceable(job: TrainingJob, plan: Plan) -> None:
    """Raise ValueError, naming the field, its value and what would be right, when `plan` of `job` cannot be traced."""
    model = job.model
    if isinstance(model, LayerList):
        raise ValueError(f"model: {model.name} is a list of layers; a trace builds decoder or encoder transformers")
    _check_model(model, job)
    _check_length(model, job)
    _check_job(job)
    _check_plan(job, plan)
    _check_rows(model, job, plan)
    for field in ("num_heads", "num_kv_heads", "ffn_size"):
        if getattr(model, field) % plan.tp:
            raise ValueError(f"tp: torch splits {field} evenly, but {plan.tp} does not divide {getattr(model, field)}")


def _check_model(model: TransformerShape, job: TrainingJob) -> None:
    refused = {
        "mla": model.mla is not None,
        "num_encoder_layers": model.num_encoder_layers > 0,
        "norms_per_layer": model.norms_per_layer != 2,
        "sliding_window": model.sliding_window is not None and model.sliding_window < job.sequence_length,
        "num_extra_parameters": model.num_extra_parameters > 0,
    }
    found = [name for name, present in refused.items() if present]
    if found:
        raise ValueError(f"model: {model.name} has {', '.join(found)}, which the traced transformer does not build")


def _check_length(model: TransformerShape, job: TrainingJob) -> None:
    positions = model.num_learned_positions
    if 0 < positions < job.sequence_length:
        raise ValueError(f"sequence_length: {job.sequence_length} exceeds the {positions} learned positions")


def _check_job(job: TrainingJob) -> None:
    if job.precision not in PRECISIONS:
        raise ValueError(f"precision: a trace knows {', '.join(PRECISIONS)}, got {job.precision}")
    if job.exchange != Exchange():
        raise ValueError("exchange: a trace reduces gradients by all-reduce or reduce-scatter, without compression")
    if job.busiest_load_factor != 1.0:
        raise ValueError(f"expert_load_factor: a trace deals rows out evenly (1), got {job.busiest_load_factor:g}")
    if job.lora_rank:
        raise ValueError(f"lora_rank: a trace trains all weights (0), got {job.lora_rank}")


def _check_rows(model: TransformerShape, job: TrainingJob, plan: Plan) -> None:
    if model.moe is None:
        return
    tokens = plan.micro_batch * job.sequence_length // plan.cp // (plan.tp if plan.sequence_parallel else 1)
    if tokens * model.moe.top_k % model.moe.num_experts:
        raise ValueError(
            f"sequence_length: {tokens} tokens a microbatch and rank, times top_k={model.moe.top_k}, do not deal out "
            f"evenly to {model.moe.num_experts} experts; a trace has no other routing"
        )


def _check_plan(job: TrainingJob, plan: Plan) -> None:
    if plan.etp > 1:
        raise ValueError(f"etp: a trace keeps experts whole (1), got etp={plan.etp}")
    if plan.zero_stage == 2:
        raise ValueError("zero_stage: torch shards gradients with parameters only; trace 0, 1 or 3, got 2")
    if plan.recompute not in (Recompute.NONE, Recompute.FULL):
        raise ValueError(f"recompute: a trace runs none or full, got {plan.recompute.name.lower()}")
    if plan.offload != Offload.NOTHING:
        raise ValueError(f"offload: a trace keeps everything on the device, got {plan.offload.words}")
    if plan.sequence_parallel and job.sequence_length % plan.tp:
        raise ValueError(f"sequence_length: {job.sequence_length} is not a multiple of tp={plan.tp}")
    if plan.pp == 1:
        return
    if plan.schedule not in SCHEDULES:
        raise ValueError(f"schedule: torch.distributed.pipelining has {', '.join(SCHEDULES)}, got {plan.schedule}")
    if plan.num_microbatches(job.global_batch) < plan.pp:
        raise ValueError(f"global_batch: torch's schedules need at least pp={plan.pp} microbatches a step")
