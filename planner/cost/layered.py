"""Sharded data parallelism inside forward and backward passes: each layer's messages run beside its neighbour.

A layer is gathered while the one before it runs, and its gradients are reduced while the next one runs backward;
only the first gather and the last reduction of a pass run beside nothing [Zhao 2023, PyTorch FSDP, arXiv:2304.11277,
sections 3.3.2 and 3.3.3]. The embedding and the head stay gathered from forward to backward, as FSDP's root does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.cost.overlap import added_seconds
from planner.work.actions import Kind
from planner.work.sharding import Slot


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Seconds of one layer kind, for one plan or arrays of one value a plan."""

    forward: Any
    backward: Any
    gather: Any
    """Before a forward pass; 0 where parameters stay."""
    gather_again: Any
    """Before a backward pass."""
    reduce: Any
    """After a backward pass; 0 where gradients are reduced once a step."""
    backward_input: Any = 0.0
    """The part of `backward` that carries its messages where it runs in two; 0 where no plan splits it."""
    reduce_once: Any = 0.0
    """After the last backward pass of a step; 0 where every pass reduces."""


def forward_exposed_seconds(
    slots: Mapping[Slot, int], times: Mapping[str, LayerTimes], contention_fraction: float
) -> Any:
    """What the messages of a chunk add to its forward pass.

    Of the first layer the whole gather; of every layer max(s x, x - c), with c its compute and x the gather of
    the next one [`planner.cost.overlap.added_seconds`].
    """
    total: Any = 0.0
    for slot, count in slots.items():
        own = times[slot.layer]
        if slot.before is None:
            total = total + own.gather
        if slot.after is not None:
            total = total + count * added_seconds(own.forward, times[slot.after].gather, contention_fraction)
    return total


def backward_exposed_seconds(
    slots: Mapping[Slot, int], times: Mapping[str, LayerTimes], contention_fraction: float
) -> Any:
    """What the messages of a chunk add to its backward pass.

    Of its last layer the whole gather, of its first the whole reduction; beside every layer run the gather of the
    one before it and the reduction of the one after it [`planner.cost.overlap.added_seconds`].
    """
    total: Any = 0.0
    for slot, count in slots.items():
        own = times[slot.layer]
        beside: Any = 0.0
        if slot.before is None:
            total = total + own.reduce
        else:
            beside = beside + times[slot.before].gather_again
        if slot.after is None:
            total = total + own.gather_again
        else:
            beside = beside + times[slot.after].reduce
        total = total + count * added_seconds(own.backward, beside, contention_fraction)
    return total


def last_backward_added_seconds(
    slots: Mapping[Slot, int], times: Mapping[str, LayerTimes], contention_fraction: float
) -> tuple[Any, Any]:
    """(what reducing gradients adds to the last backward pass of a chunk, the reduction of its first layer behind it).

    Beside a layer then runs the reduction of the one after it too, in the queue of the gathers
    [`planner.cost.overlap.added_seconds`].
    """
    added: Any = 0.0
    tail: Any = 0.0
    for slot, count in slots.items():
        own = times[slot.layer]
        gathered = times[slot.before].gather_again if slot.before is not None else 0.0 * own.gather_again
        if slot.before is None:
            tail = tail + own.reduce_once
        if slot.after is not None:
            both = gathered + times[slot.after].reduce_once
            alone = added_seconds(own.backward, gathered, contention_fraction)
            added = added + count * (added_seconds(own.backward, both, contention_fraction) - alone)
    return added, tail


@dataclass(frozen=True, slots=True)
class LayerPrice:
    """One layer of an action as the simulator plays it."""

    compute_fraction: float
    """Its share of the action's seconds of compute."""
    gather_seconds: float
    """Message that must arrive before it runs."""
    reduce_seconds: float
    """Message that it makes."""


def layer_prices(kind: Kind, order: Sequence[str], times: Mapping[str, LayerTimes]) -> tuple[LayerPrice, ...]:
    """The layers of a forward or backward action of a chunk whose layers are `order`, as they run."""
    is_forward = kind is Kind.FORWARD
    nothing = 0.0
    rows = {
        name: (one.forward, one.gather, nothing) if is_forward else (one.backward, one.gather_again, one.reduce)
        for name, one in times.items()
    }
    values = {name: [np.asarray(value).item() for value in row] for name, row in rows.items()}
    whole = sum(values[name][0] for name in order)
    made = {name: LayerPrice(own / whole, gather, reduce) for name, (own, gather, reduce) in values.items()}
    return tuple(made[name] for name in (order if is_forward else reversed(order)))
