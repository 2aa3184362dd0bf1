"""The instants of a step at which a rank can be fullest: what lives then, of gradients, gathered weights and the loss.

A sum of the most that each part ever takes would count things that never meet. Where the framework gives gradients
back after the update, none exists when the loss of the first microbatch is made, which is when most activations wait;
and fully sharded layers are not gathered while the loss runs. Source: what torch's own trainer holds, storage by
storage (`python -m benchmarks.memory_here`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.cost.stage_loads import StageLoads, compute_bytes
from planner.plan import PlanGrid
from planner.work.schedules import chunks_per_rank
from planner.work.sharding import reduces_in_backward
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

LOSS, LOGITS, LAYER = "loss", "logits", "layer"
"""Places of a pass: the loss, the product behind the logits in its backward pass, the backward pass of a layer."""


NUM_GATHERED = {LOSS: 0.0, LOGITS: 1.0, LAYER: 2.0}
"""Layers that are gathered, at most, at each place: one that runs beside one that is on its way, which comes while the
head runs backward [Zhao 2023, PyTorch FSDP, arXiv:2304.11277, section 3.3]."""


@dataclass(frozen=True, slots=True)
class Instant:
    """One or several places of a pass; of those the fullest counts."""

    places: tuple[str, ...]
    is_first: bool
    """In the first backward pass of a step: gradients come with it where none are kept."""


def instants(grid: PlanGrid, stack: SoftwareStack) -> Iterator[Instant]:
    """Every instant that has to be looked at. Places at which all plans hold the same states are one instant."""
    apart = stack.frees_gradients or bool(np.equal(grid.zero_stage, 3).any())
    return single_instants(stack) if apart else iter([Instant((LOSS, LOGITS, LAYER), False)])


def single_instants(stack: SoftwareStack) -> Iterator[Instant]:
    """Every instant, each of one place."""
    for is_first in (False, True) if stack.frees_gradients else (False,):
        yield from (Instant((place,), is_first) for place in (LOSS, LOGITS, LAYER))


def gives_gradients_back(split: Any, job: TrainingJob, stack: SoftwareStack) -> Any:
    """Whether the gradients of a plan live from the first backward pass to the update only, (plans,).

    Those that are reduced in buckets, or kept in fp32 beside parameters in 16 bits, lie in buffers that stay (torch's
    DistributedDataParallel, optimizers with master parameters).
    """
    alone = np.equal(split.dp * split.cp, 1) & (job.precision == "fp32" or stack.fp32_parameters)
    return stack.frees_gradients & (np.equal(split.zero_stage, 3) | alone)


def gradient_share(instant: Instant, load: StageLoads, split: Any, job: TrainingJob, stack: SoftwareStack) -> Any:
    """Share of a rank's gradients that exist at an instant, (plans,): in the first backward pass those of the head,
    behind it, unless they wait whole to be reduced."""
    if not instant.is_first:
        return 1.0
    parameters = load.dense_parameters + load.expert_parameters
    is_there = (instant.places == (LAYER,)) & ~reduces_in_backward(split)
    present = load.head_parameters / np.maximum(parameters, 1.0) * is_there
    return np.where(gives_gradients_back(split, job, stack), present, 1.0)


def gathered_parameters(instant: Instant, load: StageLoads) -> Any:
    """Parameters gathered at an instant, where they are freed after the forward pass; embedding and head stay."""
    num_gathered = np.minimum(load.num_layers, NUM_GATHERED[instant.places[-1]])
    return load.end_parameters + num_gathered * load.layer_parameters


def running_bytes(
    instant: Instant, load: StageLoads, load_of: Any, grid: PlanGrid, job: TrainingJob
) -> tuple[Any, Any]:
    """(logits, working) bytes of what runs at an instant, (plans,); plan i has the loads at load_of[i].

    The head's gradient of fully sharded parameters waits whole, until the embedding's is there: they are of one unit,
    the root's [Zhao 2023, PyTorch FSDP, arXiv:2304.11277, section 3.2.1].
    """
    logits, working = _fuller(_at(place, load, load.layer_working_bytes) for place in instant.places)
    logits, working = logits[load_of], working[load_of]
    if LAYER in instant.places and (is_reduced := reduces_in_backward(grid)).any():
        sharded = _fuller(_at(place, load, load.sharded_layer_working_bytes) for place in instant.places)
        logits = np.where(is_reduced, sharded[0][load_of], logits)
        root = compute_bytes(job) * load.head_parameters[load_of] * np.equal(grid.zero_stage, 3)
        working = np.where(is_reduced, sharded[1][load_of] + root, working)
    return logits, working


def waiting_at(instant: Instant, held: Any, num_microbatches: Any, grid: PlanGrid, stack: SoftwareStack) -> Any:
    """Microbatches, in chunks of a rank, whose activations wait at an instant, of `held` at most, (plans,).

    Where all of a step's wait together, a later backward pass finds one fewer: chunk by chunk, of the last chunk.
    """
    if instant.is_first or not stack.frees_gradients:
        return held
    chunks = chunks_per_rank(grid.schedule, grid.vp)
    all_wait = np.greater_equal(held, num_microbatches * chunks)
    return np.where(all_wait, num_microbatches - 1.0, held)


def happens(instant: Instant, num_microbatches: Any, stack: SoftwareStack) -> Any:
    """Whether plans have such an instant, (plans,): with one microbatch there is no later loss."""
    if instant.is_first or LAYER in instant.places or not stack.frees_gradients:
        return True
    return np.greater(num_microbatches, 1)


def _at(place: str, load: StageLoads, layer_working_bytes: Any) -> tuple[Any, Any]:
    """(logits, working) bytes at one place."""
    return {
        LOSS: (load.loss_bytes, load.loss_working_bytes),
        LOGITS: (load.logits_bytes, load.logits_working_bytes),
        LAYER: (0.0 * layer_working_bytes, layer_working_bytes),
    }[place]


def _fuller(pairs: Iterable[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Of pairs of bytes, at every entry the one with the larger sum."""
    first, *others = pairs
    for other in others:
        wider = np.greater(sum(other), sum(first))
        first = (np.where(wider, other[0], first[0]), np.where(wider, other[1], first[1]))
    return first
