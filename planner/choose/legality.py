"""Every rule of a legal plan, once: a mask over a grid, and a sentence for one plan."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.choose.exchange_rules import EXCHANGE_RULES
from planner.choose.offload_rules import OFFLOAD_RULES
from planner.choose.recompute_rules import RECOMPUTE_RULES
from planner.choose.rule import Rule
from planner.layout import layout_of, written
from planner.placement import written as written_placement
from planner.plan import SCHEDULE_NAMES, Plan, PlanGrid
from planner.work.layers import divides_evenly, most_chunks, num_blocks
from planner.work.schedules import SCHEDULES
from profiles.cluster import Cluster
from profiles.model import LayerList, TransformerShape
from profiles.workload import TrainingJob

Mask = NDArray[np.bool_]


def _transformer(job: TrainingJob) -> TransformerShape | None:
    return job.model if isinstance(job.model, TransformerShape) else None


def _divides(number: Any, degree: Any) -> Any:
    return np.equal(np.mod(number, degree), 0)


def _shape_rule(name: str, degree: str, sizes: Callable[[TransformerShape], tuple[tuple[str, int], ...]]) -> Rule:
    """`degree` must divide each of the model's `sizes`."""

    def holds(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
        model = _transformer(job)
        columns = getattr(plans, degree)
        checks = [_divides(size, columns) for _, size in sizes(model)] if model else []
        return np.logical_and.reduce([np.ones(len(plans), dtype=bool), *checks])

    def sentence(plan: Plan, job: TrainingJob, cluster: Cluster) -> str:
        model = _transformer(job)
        value = getattr(plan, degree)
        wrong = [f"{field}={size}" for field, size in (sizes(model) if model else ()) if size % value]
        return f"{degree}={value} does not divide {' or '.join(wrong)} of {job.model.name}; choose a divisor"

    return Rule(name, holds, sentence)


def _tp_sizes(model: TransformerShape) -> tuple[tuple[str, int], ...]:
    return (
        ("num_heads", model.num_heads),
        ("hidden_size", model.hidden_size),
        ("ffn_size", model.ffn_size),
    )


def _kv_heads_hold(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
    model = _transformer(job)
    kv_heads = model.num_kv_heads if model else 1
    return _divides(kv_heads, plans.tp) | _divides(plans.tp, kv_heads)


def _experts(job: TrainingJob) -> int:
    model = _transformer(job)
    return model.moe.num_experts if model and model.moe else 1


def _transformer_only(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
    plain = (plans.tp == 1) & (plans.cp == 1) & (plans.ep == 1) & (plans.etp == 1) & (plans.sequence_parallel == 0)
    return plain | (not isinstance(job.model, LayerList))


def _expert_width(job: TrainingJob) -> int:
    model = _transformer(job)
    return model.moe.expert_ffn_size if model and model.moe else 1


def _heads(job: TrainingJob) -> int:
    model = _transformer(job)
    return model.num_heads if model else 1


def _context_holds(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
    """The all-to-all deals heads out evenly, those of keys and values too, as Transformer Engine demands
    (attention/dot_product_attention/context_parallel.py); what is gathered is what the all-to-all leaves."""
    model, shares = _transformer(job), plans.tp * plans.cp_a2a
    dealt = _divides(_heads(job), shares) & _divides(model.num_kv_heads if model else 1, shares)
    dealt = (plans.cp_a2a == 1) | (dealt & _divides(plans.cp, plans.cp_a2a))
    return dealt & ((plans.cp_gather == 0) | (plans.cp > plans.cp_a2a))


def _schedule_holds(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
    num_microbatches = np.maximum(plans.num_microbatches(job.global_batch), 0)
    holds = np.zeros(len(plans), dtype=bool)
    for code, name in enumerate(SCHEDULE_NAMES):
        checks = [rule.holds(plans.pp, num_microbatches, plans.vp) for rule in SCHEDULES[name].requirements]
        holds |= (plans.schedule == code) & np.logical_and.reduce(checks)
    return holds


def _schedule_sentence(plan: Plan, job: TrainingJob, cluster: Cluster) -> str:
    num_microbatches = plan.num_microbatches(job.global_batch)
    broken = [
        rule.sentence
        for rule in SCHEDULES[plan.schedule].requirements
        if not rule.holds(plan.pp, num_microbatches, plan.vp)
    ]
    return (
        f"schedule={plan.schedule} {' and '.join(broken)}; got pp={plan.pp} vp={plan.vp} and "
        f"{num_microbatches} microbatches"
    )


def _layers_dealt_out(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
    """Equal shares, or a layout that names a number of layers for every chunk and all layers of the model."""
    blocks, chunks = num_blocks(job.model), plans.pp * plans.vp
    codes, code_of = np.unique(plans.layout, return_inverse=True)
    layouts = [layout_of(int(code)) for code in codes]
    lengths = np.array([len(layout) for layout in layouts])[code_of]
    sums = np.array([sum(layout) for layout in layouts])[code_of]
    fits = np.where(plans.layout > 0, (lengths == chunks) & (sums == blocks), divides_evenly(blocks, chunks))
    return fits & (chunks <= most_chunks(job.model))


def _layers_sentence(plan: Plan, job: TrainingJob, cluster: Cluster) -> str:
    blocks, chunks = num_blocks(job.model), plan.pp * plan.vp
    name = f"pp*vp = {plan.pp}*{plan.vp} = {chunks}"
    if plan.layout:
        return (
            f"layout={written(plan.layout)} deals {sum(plan.layout)} layers out to {len(plan.layout)} chunks, but "
            f"{job.model.name} has {blocks} and {name}"
        )
    return (
        f"{name} does not divide the {blocks} layers of {job.model.name}, nor {blocks + 2} with embedding and head; "
        "choose a divisor, or a layout (best finds one)"
    )


ONE_F_ONE_B = SCHEDULE_NAMES.index("1f1b")

RULES: tuple[Rule, ...] = (
    Rule(
        "degrees fill the cluster",
        lambda p, job, cluster: p.num_ranks == cluster.num_devices,
        lambda p, job, cluster: (
            f"dp*tp*pp*cp = {p.dp}*{p.tp}*{p.pp}*{p.cp} = {p.num_ranks}, but the cluster has "
            f"{cluster.num_devices} devices; the product must equal it"
        ),
    ),
    Rule(
        "placements are for several groups of nodes",
        lambda p, job, cluster: p.placement == 0,
        lambda p, job, cluster: (
            f"placement={written_placement(p.placement)}: the nodes of {cluster.name} are all alike; leave it to auto"
        ),
    ),
    Rule(
        "tp, cp, ep and sp split transformers only",
        _transformer_only,
        lambda p, job, cluster: (
            f"{job.model.name} is a plain list of layers: tp, cp and ep must be 1 and "
            f"sequence_parallel off, got tp={p.tp} cp={p.cp} ep={p.ep}"
        ),
    ),
    Rule(
        "microbatches fill the batch",
        lambda p, job, cluster: _divides(job.global_batch, p.dp * p.micro_batch),
        lambda p, job, cluster: (
            f"global_batch={job.global_batch} is not a multiple of dp*micro_batch = "
            f"{p.dp}*{p.micro_batch} = {p.dp * p.micro_batch}"
        ),
    ),
    _shape_rule("tp divides heads and widths", "tp", _tp_sizes),
    Rule(
        "tp and kv heads divide one another",
        _kv_heads_hold,
        lambda p, job, cluster: (
            f"tp={p.tp} neither divides nor is a multiple of the key-value heads of "
            f"{job.model.name}; choose one that does"
        ),
    ),
    Rule(
        "layers divide into stages",
        _layers_dealt_out,
        _layers_sentence,
    ),
    Rule("the schedule's requirements hold", _schedule_holds, _schedule_sentence),
    Rule(
        "one stage has one schedule",
        lambda p, job, cluster: (p.pp > 1) | (p.schedule == ONE_F_ONE_B),
        lambda p, job, cluster: (
            f"schedule={p.schedule} with pp=1: a single stage has nothing to schedule; use 1f1b, or pp of at least 2"
        ),
    ),
    Rule(
        "sequence parallelism has a tp axis",
        lambda p, job, cluster: (p.sequence_parallel == 0) | ((p.tp > 1) & _divides(job.sequence_length, p.tp * p.cp)),
        lambda p, job, cluster: (
            f"sequence_parallel needs tp of at least 2 and a sequence_length that is a multiple of "
            f"tp*cp, got tp={p.tp} cp={p.cp} and sequence_length={job.sequence_length}"
        ),
    ),
    Rule(
        "cp divides the sequence in balanced halves",
        lambda p, job, cluster: (p.cp == 1) | _divides(job.sequence_length, 2 * p.cp),
        lambda p, job, cluster: (
            f"cp={p.cp} needs sequence_length={job.sequence_length} to be a multiple of {2 * p.cp} "
            "(each rank takes an early and a late piece of a causal sequence)"
        ),
    ),
    Rule(
        "the expert mesh folds onto the dense one",
        lambda p, job, cluster: (
            _divides(_experts(job), p.ep)
            & _divides(_expert_width(job), p.etp)
            & _divides(p.tp * p.cp * p.dp, p.etp * p.ep)
        ),
        lambda p, job, cluster: (
            f"ep={p.ep} must divide the {_experts(job)} experts of {job.model.name}, etp={p.etp} their width of "
            f"{_expert_width(job)}, and etp*ep={p.etp * p.ep} must divide tp*cp*dp={p.tp * p.cp * p.dp}"
            if _experts(job) > 1
            else f"ep={p.ep} and etp={p.etp} split experts, and {job.model.name} has none; leave both at 1"
        ),
    ),
    Rule(
        "each expert sees a token once",
        lambda p, job, cluster: (_experts(job) == 1) | (p.tp == 1) | (p.sequence_parallel == 1) | np.equal(p.etp, p.tp),
        lambda p, job, cluster: (
            f"tp={p.tp} without sequence_parallel leaves the same tokens on every tp rank, so that etp={p.etp} ranks "
            "would compute them more than once; turn sequence_parallel on, or make etp equal to tp"
        ),
    ),
    Rule(
        "cp trades heads by all-to-all or passes keys",
        _context_holds,
        lambda p, job, cluster: (
            f"cp_a2a={p.cp_a2a} must divide cp={p.cp}, and the heads, those of keys and values too, over tp={p.tp}"
            + (f", and cp_gather needs cp_a2a below cp={p.cp}" if p.cp_gather else "")
        ),
    ),
    Rule(
        "sharding has replicas to shard over",
        lambda p, job, cluster: (p.zero_stage == 0) | (p.dp * p.cp > p.dp_replicate),
        lambda p, job, cluster: (
            f"zero_stage={p.zero_stage} shards over dp*cp/dp_replicate = {p.dp}*{p.cp}/{p.dp_replicate} ranks; "
            "at least 2 are needed"
        ),
    ),
    Rule(
        "pipelines shard the optimizer, or everything",
        lambda p, job, cluster: (p.zero_stage != 2) | (p.pp == 1),
        lambda p, job, cluster: (
            f"zero_stage=2 with pp={p.pp}: every microbatch of a pipeline would reduce all gradients of its stage; "
            "use zero_stage=1, or 3 with reshard_after_forward off"
        ),
    ),
    Rule(
        "only sharded parameters can be kept gathered",
        lambda p, job, cluster: (p.reshard_after_forward == 1) | (p.zero_stage == 3),
        lambda p, job, cluster: (
            f"reshard_after_forward is off with zero_stage={p.zero_stage}: only zero_stage=3 gathers parameters "
            "that a forward pass could keep"
        ),
    ),
    Rule(
        "replica groups share the shards",
        lambda p, job, cluster: (
            (p.dp_replicate == 1)
            | (
                ((p.zero_stage >= 1) | job.exchange.is_local)
                & _divides(p.dp, p.dp_replicate)
                & _divides(p.tp * p.cp * p.dp, p.etp * p.ep * p.dp_replicate)
            )
        ),
        lambda p, job, cluster: (
            f"dp_replicate={p.dp_replicate} needs zero_stage of at least 1 (got {p.zero_stage}) or local training, "
            f"must divide dp={p.dp}, and etp*ep={p.etp * p.ep} what it leaves of tp*cp*dp={p.tp * p.cp * p.dp}"
        ),
    ),
    *RECOMPUTE_RULES,
    *EXCHANGE_RULES,
    *OFFLOAD_RULES,
)


def legal(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> tuple[Mask, dict[str, int]]:
    """(mask of legal plans, plans rejected by rule), each plan counted under the first rule it breaks."""
    mask = np.ones(len(plans), dtype=bool)
    rejected: dict[str, int] = {}
    for rule in RULES:
        holds = rule.holds(plans, job, cluster)
        broken = int(np.count_nonzero(mask & ~holds))
        if broken:
            rejected[rule.name] = broken
        mask &= holds
    return mask, rejected


def check_plan(plan: Plan, job: TrainingJob, cluster: Cluster) -> list[str]:
    """What is wrong with one plan, one sentence a rule; empty if it is legal."""
    grid = PlanGrid.of([plan])
    return [rule.sentence(plan, job, cluster) for rule in RULES if not np.all(rule.holds(grid, job, cluster))]
