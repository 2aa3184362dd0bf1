"""Messages of a run beside those of its step program: equal, or different for a stated reason. Needs no torch."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planner.plan import Plan
from planner.recompute import Module, Recompute
from planner.work.layers import EMBEDDING, HEAD, MOE, rank_chunks
from planner.work.lower import lower
from planner.work.ops import Message
from planner.work.program import StepProgram, Work, layer_messages
from planner.work.sharding import num_shards, reduces_in_backward
from profiles.model import TransformerShape
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES
from profiles.workload import TrainingJob
from validate.parallel.axes import first_name, ranks_of
from validate.reasons import Reason, unexplained

Key = tuple[str, str]
"""(axis, collective)."""
ROUNDING = 1e-9
"""Relative difference of sums of floating-point numbers."""


def planned_messages(program: StepProgram) -> list[dict[Key, float]]:
    """Bytes of each (axis, collective) that a rank of every pipeline position sends in a step."""
    found: list[dict[Key, float]] = []
    for actions in program.ranks:
        sent: defaultdict[Key, float] = defaultdict(float)
        for action in actions:
            work = [program.work.get((action.kind, action.chunk), Work())]
            work += [program.layer_work[key] for key in layer_messages(program, action)]
            for each in work:
                for op, count in (*each.recomputed, *each.ops):
                    if isinstance(op, Message) and ranks_of(op.axis, program.plan)[0] > 1:
                        sent[first_name(op.axis, program.plan), op.collective] += float(count * op.num_bytes)
        found.append({key: size for key, size in sent.items() if size})
    return found


@dataclass(frozen=True, slots=True)
class Row:
    """What a rank of one pipeline position sends in a step over one axis, planned and counted."""

    stage: int
    axis: str
    collective: str
    planned_bytes: float
    sent_bytes: float
    """Mean over the ranks of the stage: of an uneven exchange they send different shares."""
    reasons: tuple[Reason, ...]
    """In bytes."""

    @property
    def unexplained_bytes(self) -> float:
        """What of the difference no reason names; 0 but for rounding."""
        return unexplained(self.sent_bytes, self.planned_bytes, self.reasons, ROUNDING)


def compare_messages(
    results: Sequence[Mapping[str, Any]], job: TrainingJob, plan: Plan, stack: SoftwareStack
) -> tuple[Row, ...]:
    """Every (stage, axis, collective) of a run whose ranks counted their messages beside the plan's."""
    rows = []
    for stage, planned in enumerate(planned_messages(lower(plan, job, stack))):
        ranks = [result["messages"] for result in results if result["coordinates"]["pp"] == stage]
        sent: defaultdict[Key, float] = defaultdict(float)
        reasons: defaultdict[Key, list[Reason]] = defaultdict(list)
        for message in (message for messages in ranks for message in messages):
            key = message["axis"], message["collective"]
            sent[key] += message["num_bytes"] / len(ranks)
            if padding := message["padding_bytes"]:
                reasons[key].append(Reason(padding / len(ranks), "padding to equal shards"))
        for key, reason in _beside(job, plan, stage):
            if reason.amount:
                reasons[key].append(reason)
        for axis, collective in sorted(planned.keys() | sent.keys()):
            key = axis, collective
            rows.append(Row(stage, axis, collective, planned.get(key, 0.0), sent[key], tuple(reasons[key])))
    return tuple(rows)


def check_messages(rows: Sequence[Row]) -> None:
    """Raise ValueError naming the first message whose bytes are neither the plan's nor explained."""
    for row in rows:
        if row.unexplained_bytes:
            raise ValueError(
                f"messages: stage {row.stage} sends {row.sent_bytes:.0f} bytes by {row.collective} over {row.axis}, "
                f"the plan says {row.planned_bytes:.0f}, and {row.unexplained_bytes:+.0f} are not explained; the split "
                "does something else, so it is not timed"
            )


def _beside(job: TrainingJob, plan: Plan, stage: int) -> Iterator[tuple[Key, Reason]]:
    """What the executor sends that no plan prices, all of it small."""
    model = job.model
    assert isinstance(model, TransformerShape)
    chunks = rank_chunks(model, plan.schedule, plan.pp, plan.vp, plan.layout)[stage]
    kinds = [kind for counts in chunks for kind, count in counts.items() for _ in range(count)]
    num_microbatches = plan.num_microbatches(job.global_batch)
    if plan.tp > 1 and plan.sequence_parallel:
        is_fully_sharded = plan.zero_stage == 3
        times = num_microbatches if reduces_in_backward(plan) and not is_fully_sharded else 1
        shards = float(num_shards(plan)) if is_fully_sharded else 1.0
        size = DTYPE_BYTES["fp32"] * sum(_outside_tp(model, kind) for kind in kinds) * times / shards
        yield (
            (first_name("tp", plan), "all_reduce"),
            Reason(size, "gradients of parameters that see T / tp tokens only"),
        )
    if plan.ep > 1 and model.moe is not None:
        again = plan.recompute == Recompute.FULL or (
            plan.recompute == Recompute.SELECTIVE and bool(plan.recompute_modules & Module.MOE)
        )
        passes = num_microbatches * (2 if again else 1)
        size = passes * _COUNT_BYTES * model.moe.num_experts * kinds.count(MOE)
        yield (first_name("ep", plan), "all_to_all"), Reason(size, "how many rows each expert gets")


_COUNT_BYTES = 8.0
"""Of one number of rows."""


def _outside_tp(model: TransformerShape, kind: str) -> float:
    """Parameters of a layer that lie outside the tensor-parallel parts: norms, late biases, learned positions."""
    norm = model.hidden_size * (2 if model.norm == "layer_norm" else 1)
    if kind == EMBEDDING:
        return float(model.num_learned_positions * model.hidden_size)
    if kind == HEAD:
        return float(norm)
    return 2.0 * (norm + (model.hidden_size if model.linear_bias else 0))
