"""The best layout of a pipeline: layers dealt out by what they cost, as long as every stage fits its memory."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.cost.memory import rank_memory, usable_bytes
from planner.cost.phase import load, settled
from planner.layout import EVEN, Layout
from planner.plan import Plan
from planner.work.assign import assign
from planner.work.layers import (
    EMBEDDING,
    blocks_of,
    divides_evenly,
    layer_work,
    num_blocks,
    sequence,
    stage_counts,
    tail,
)
from planner.work.schedules import SCHEDULES, num_copies
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

LONGEST_STAGE = 3
WORTHWHILE = 0.99
"""An uneven layout is worth its trouble where its slowest chunk takes at most this share of the even one's."""


def fastest_layout(plan: Plan, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> Layout:
    """The layout whose slowest chunk is fastest under the split of `plan`; EVEN where that is as good within 1 %.

    Raises ValueError where there are fewer layers than chunks.
    """
    num_chunks = int(SCHEDULES[plan.schedule].placement.num_pieces(plan.pp, plan.vp))
    return fastest_split(num_chunks, job, *layer_seconds(plan, job, cluster, stack))


def fastest_split(
    num_chunks: int,
    job: TrainingJob,
    block_seconds: NDArray[np.float64],
    embedding_seconds: float,
    tail_seconds: float,
) -> Layout:
    """The same for layers whose `layer_seconds` are known."""
    found = assign(block_seconds, num_chunks, embedding_seconds, tail_seconds)
    if not divides_evenly(num_blocks(job.model), num_chunks):
        return found
    ends = embedding_seconds, tail_seconds
    even = _slowest(block_seconds, even_counts(job, num_chunks), *ends)
    return found if _slowest(block_seconds, found, *ends) <= WORTHWHILE * even else EVEN


def best_layout(plan: Plan, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> Layout:
    """The fastest layout whose stages fit the memory of a device; the fastest of all if none fits.

    With several chunks a rank memory is not looked at. Raises ValueError where there are fewer layers than chunks.
    """
    found = fastest_layout(plan, job, cluster, stack)
    if found == EVEN or plan.vp > 1 or num_copies(plan.schedule) > 1:
        return found
    costs, first, last = layer_seconds(plan, job, cluster, stack)
    fits = stages_that_fit(plan, job, usable_bytes(cluster, stack), stack)
    if all(fits[place] for place in _ranges(found)):
        return found
    try:
        return assign(costs, plan.pp, first, last, fits)
    except ValueError:
        return found


def stages_that_fit(
    plan: Plan, job: TrainingJob, most_bytes: float | NDArray[np.float64], stack: SoftwareStack
) -> NDArray[np.bool_]:
    """Whether stage s fits with the layers from i up to j, (stages, layers + 1, layers + 1), one chunk a stage.

    `most_bytes` are those of a device, or of each stage's. Stages of more than LONGEST_STAGE times their even share are
    not looked at.
    """
    kinds = tuple(dict.fromkeys(sequence(job.model)))
    blocks, last = blocks_of(job.model), tail(job.model)
    plan, most = replace(plan, layout=EVEN), np.broadcast_to(most_bytes, plan.pp)
    longest = LONGEST_STAGE * -(-len(blocks) // plan.pp)
    stage, start, end = np.indices((plan.pp, len(blocks) + 1, len(blocks) + 1)).reshape(3, -1)
    some = np.flatnonzero((end >= start) & (end - start <= longest))
    counts = []
    for kind in kinds:
        before = np.concatenate([[0.0], np.cumsum([1.0 * (block == kind) for block in blocks])])
        count = before[end[some]] - before[start[some]]
        count = count + 1.0 * ((kind == EMBEDDING) & (stage[some] == 0))
        counts.append(count + last.count(kind) * (stage[some] == plan.pp - 1))
    held = rank_memory(plan, stage[some].astype(float), counts, job, stack).peak_bytes
    fits = np.zeros((plan.pp, len(blocks) + 1, len(blocks) + 1), dtype=bool)
    fits[stage[some], start[some], end[some]] = held <= most[stage[some]]
    return fits


def layer_seconds(
    plan: Plan, job: TrainingJob, cluster: Cluster, stack: SoftwareStack
) -> tuple[NDArray[np.float64], float, float]:
    """Forward and backward of one microbatch: of every layer that is dealt out, of the embedding and of what lies
    behind the last one.

    Layers are priced alone; a chunk's host floor acts on their sum (Source: `planner.cost.phase.settled`).
    """
    kinds = sequence(job.model)
    seconds: dict[str, float] = {}
    for kind in dict.fromkeys(kinds):
        work = layer_work(job, kind, plan, stack)
        loads = [load(part, plan, cluster, stack)[:, None] for part in (work.forward, work.backward)]
        seconds[kind] = float(sum(settled(one, stack).sum() for one in loads))
    blocks = np.array([seconds[kind] for kind in blocks_of(job.model)])
    return blocks, seconds.get(EMBEDDING, 0.0), sum(seconds[kind] for kind in tail(job.model))


def even_counts(job: TrainingJob, num_chunks: int) -> Layout:
    """Layers by chunk of an even layout."""
    held = [sum(chunk.values()) for chunk in stage_counts(job.model, num_chunks)]
    held[0] -= EMBEDDING in sequence(job.model)
    held[-1] -= len(tail(job.model))
    return tuple(held)


def _ranges(layout: Layout) -> list[tuple[int, int, int]]:
    """(chunk, first layer, layer behind the last) of every chunk."""
    ends = np.cumsum(layout)
    return [(chunk, int(end) - count, int(end)) for chunk, (count, end) in enumerate(zip(layout, ends, strict=True))]


def _slowest(costs: NDArray[np.float64], layout: Layout, first: float, last: float) -> float:
    chunks = [float(costs[start:end].sum()) for _, start, end in _ranges(layout)]
    chunks[0] += first
    chunks[-1] += last
    return max(chunks)
