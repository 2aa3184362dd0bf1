"""Which ranks of a plan do different things, and a smaller job whose ranks do the same things fewer times."""

from dataclasses import replace

from planner.plan import Plan
from planner.work.blocks import padded_vocabulary
from planner.work.kinds import EMBEDDING, HEAD
from planner.work.layers import rank_chunks, stage_counts
from planner.work.schedules import SCHEDULES
from profiles.model import TransformerShape
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

MOST_LAYERS = 2
"""Layers of a chunk that are traced; each further one repeats the last, and one alone would have no neighbour."""


def reduced(job: TrainingJob, plan: Plan, stack: SoftwareStack) -> tuple[TrainingJob, Plan]:
    """The job with at most MOST_LAYERS layers a chunk and two microbatches a stage, and the plan that lays it out."""
    job = padded(job, plan, stack)
    model = job.model
    assert isinstance(model, TransformerShape)
    num_pieces = SCHEDULES[plan.schedule].placement.num_pieces(plan.pp, plan.vp)
    counts = [
        sum(count for kind, count in piece.items() if kind not in (EMBEDDING, HEAD))
        for piece in stage_counts(model, num_pieces, plan.layout)
    ]
    fewer = tuple(min(count, MOST_LAYERS) for count in counts)
    changes: dict[str, object] = {"num_layers": sum(fewer)}
    if model.moe is not None and model.moe.num_first_dense_layers:
        changes["moe"] = model.moe.model_copy(update={"num_first_dense_layers": 1})
    num_microbatches = min(plan.num_microbatches(job.global_batch), 2 * plan.pp)
    small = job.model_copy(
        update={
            "model": model.model_copy(update=changes),
            "global_batch": num_microbatches * plan.micro_batch * plan.dp,
        }
    )
    return small, plan if plan.pp * plan.vp == 1 else replace(plan, layout=fewer)


def padded(job: TrainingJob, plan: Plan, stack: SoftwareStack) -> TrainingJob:
    """The job with the rows of its vocabulary padded to what `stack` splits over tp."""
    model = job.model
    assert isinstance(model, TransformerShape)
    rows = int(plan.tp * padded_vocabulary(model, float(plan.tp), stack))
    return job.model_copy(update={"model": model.model_copy(update={"vocabulary_size": rows})})


def roles(job: TrainingJob, plan: Plan) -> dict[int, int]:
    """A stage of each kind -> how many stages are of that kind: the first, the last, and those between by their layers.

    The ranks of one stage differ in their tp, cp, dp or ep coordinate only and do the same work.
    """
    held = rank_chunks(job.model, plan.schedule, plan.pp, plan.vp, plan.layout)
    found: dict[object, int] = {}
    number: dict[int, int] = {}
    for stage, chunks in enumerate(held):
        key = (stage == 0, stage == plan.pp - 1, tuple(tuple(counts.items()) for counts in chunks))
        first = found.setdefault(key, stage)
        number[first] = number.get(first, 0) + 1
    return number
