"""What one action costs: its kernels and exposed messages, with the host's launches as a floor under them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.cost.collectives import members_within, message_seconds
from planner.cost.groups import group_of, stage_stride
from planner.cost.kernels import kernel_seconds
from planner.cost.layered import LayerPrice, LayerTimes, layer_prices
from planner.cost.torus import is_torus
from planner.plan import Plan, PlanGrid
from planner.work.ops import GroupedGemm, HostCopy, Message
from planner.work.program import Counted, Kind, StepProgram, Work
from planner.work.sharding import KEPT_GATHERED, gathers_in_backward, gathers_in_forward, reduces_in_backward
from profiles.cluster import Cluster
from profiles.software import SoftwareStack

Seconds = Any

FLOOR_EXPONENT = 3.0
"""Sharpness of the larger of device and host time. Both vary from kernel to kernel, so that where they are alike the
action takes longer than either sum: 3 with 60 us a launch misses the 32 groups of the source below by 8.9 %, by 9.4
when fitted on ten others; 8 by 10.3 and 10.7; a plain sum by half."""

_ROW_AXES = (("tp",), ("cp", "cp_a2a", "cp_ring"), ("ep", "etp"))
"""Axes of the messages that the rows tp, cp and ep of a load count."""

LOAD_FIELDS = ("compute", "recompute", "tp", "cp", "ep", "launch", "copy")
"""Rows of a load: seconds of kernels, of recomputed kernels, of exposed messages by axis, of host launches, and of
copies to and from the host beside compute."""


def load(work: Work, plan: Plan | PlanGrid, cluster: Cluster, stack: SoftwareStack) -> NDArray[np.float64]:
    """Seconds of `work` by LOAD_FIELDS, shape (7, ...plans). Loads add up until `settled` says what they cost.

    Messages of tp and cp block the compute stream; those of ep as far as `settled` finds no compute beside them.
    """
    compute, launches = _kernels(work.ops, plan, cluster, stack)
    recompute, more_launches = _kernels(work.recomputed, plan, cluster, stack)
    copies = _copies(work.ops, cluster)
    axes = [_messages((*work.recomputed, *work.ops), names, plan, cluster) for names in _ROW_AXES]
    host = (launches + more_launches) * stack.host_seconds_per_launch
    shape = np.shape(plan.tp)
    return np.stack([np.broadcast_to(row, shape) for row in (compute, recompute, *axes, host, copies)]).astype(float)


def settled(load_seconds: NDArray[np.float64], stack: SoftwareStack) -> NDArray[np.float64]:
    """Loads of whole actions, (..., 7, plans), as their first six rows, (..., 6, plans): what ep exposes and the excess
    of the host's launches in their rows, what copies outlast compute in that of compute.

    A stack that hides a share of the exchange between experts runs it beside the compute of another microbatch
    [DeepSeek-AI 2024, arXiv:2412.19437, section 3.2.1]; what outlasts that compute is exposed all the same.
    """
    found = load_seconds[..., :6, :].copy()
    compute, exchange = found[..., 0, :] + found[..., 1, :], found[..., 4, :].copy()
    found[..., 0, :] += np.maximum(load_seconds[..., 6, :] - compute, 0.0)
    share = stack.ep_exposed_fraction
    found[..., 4, :] = share * exchange + (1.0 - share) * np.maximum(exchange - compute, 0.0)
    found[..., 5, :] = host_excess_seconds(found)
    return found


def host_excess_seconds(loads: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the host's launches add to device time, for loads of shape (..., 6, plans).

    The host runs ahead of the device, so its time is a floor under an action, not an addend: the action takes
    (device**q + host**q)**(1/q) with q = FLOOR_EXPONENT.
    Source: 620 single-node runs of VIA-Research/vTrain's table, in groups of hidden size, microbatch and tp.
    """
    device, host = loads[..., :5, :].sum(axis=-2), loads[..., 5, :]
    longest = np.maximum(np.maximum(device, host), np.finfo(float).tiny)
    powers = (device / longest) ** FLOOR_EXPONENT + (host / longest) ** FLOOR_EXPONENT
    return longest * powers ** (1.0 / FLOOR_EXPONENT) - device


def _kernels(ops: Counted, plan: Plan | PlanGrid, cluster: Cluster, stack: SoftwareStack) -> tuple[Seconds, Seconds]:
    """(seconds of the kernels among `ops`, launches of all of them); a message within one rank is not launched.

    Where a captured graph holds all but the experts, only the products of those are launched one by one.
    """
    seconds: Seconds = 0.0
    launches: Seconds = 0.0
    for op, count in ops:
        if isinstance(op, Message):
            is_launched = np.greater(group_of(op.axis, plan).size, 1)
            launches = launches + count * is_launched * (not stack.captures_dense_parts)
        elif not (isinstance(op, HostCopy) and op.is_beside):
            seconds = seconds + count * kernel_seconds(op, cluster)
            outside_graph = isinstance(op, GroupedGemm) or not stack.captures_dense_parts
            launches = launches + outside_graph * count * op.num_launches
    return seconds, launches


def _copies(ops: Counted, cluster: Cluster) -> Seconds:
    """Seconds of the copies to and from the host that run beside compute [Ren 2021, arXiv:2101.06840, section 4]."""
    beside = [(op, count) for op, count in ops if isinstance(op, HostCopy) and op.is_beside]
    return sum((count * kernel_seconds(op, cluster) for op, count in beside), 0.0)


def _messages(ops: Counted, axes: tuple[str, ...], plan: Plan | PlanGrid, cluster: Cluster) -> Seconds:
    total: Seconds = 0.0
    for op, count in ops:
        if isinstance(op, Message) and op.axis in axes:
            total = total + count * exposed_message_seconds(op, plan, cluster)
    return total


def exposed_message_seconds(message: Message, plan: Plan | PlanGrid, cluster: Cluster) -> Seconds:
    """Seconds the compute stream waits: what outlasts the kernel beside the message, times its exposed fraction.

    One step of ring attention takes the longer of the two [Liu 2023, arXiv:2310.01889, section 3].
    """
    seconds = priced_message(message, plan, cluster)
    if message.beside is not None:
        seconds = np.maximum(seconds - kernel_seconds(message.beside, cluster), 0.0)
    return message.exposed_fraction * seconds


def priced_message(message: Message, plan: Plan | PlanGrid, cluster: Cluster) -> Seconds:
    """Seconds of a message alone on the links of its axis; one between neighbouring stages as the mean over them."""
    if message.collective == "send_recv" and message.axis == "pp":
        return _hop_seconds(message, plan, cluster)
    size, stride, block, skip = group_of(message.axis, plan)
    return message_seconds(
        message.collective, message.num_bytes, size, stride, cluster, message.library, message.routing,
        block, skip,
    )  # fmt: skip


def _hop_seconds(message: Message, plan: Plan | PlanGrid, cluster: Cluster) -> Seconds:
    """Mean over the pp - 1 pairs of neighbouring stages.

    Of pp / m groups of stages within a tier all but one end where a message crosses it.
    """
    num_stages, stride = np.maximum(plan.pp, 2), stage_stride(plan)
    within = members_within(num_stages, stride, cluster)
    crossing = (num_stages / np.concatenate([np.ones_like(within[:1]), within]) - 1.0) / (num_stages - 1.0)
    total: Seconds = 0.0
    inner = cluster.tiers[0]
    reached = np.minimum(stride, inner.num_devices / 2.0) if is_torus(inner) else 1.0
    for tier, share in zip(cluster.tiers, crossing[:-1] - crossing[1:], strict=True):
        if np.any(share):
            pair = message_seconds(message.collective, message.num_bytes, 2.0, reached, cluster)
            total = total + share * pair
        reached = float(tier.num_devices)
    return total


def layer_times(
    kind: str, pass_seconds: Sequence[NDArray[np.float64]], messages: Mapping[Kind, Work], plan: Plan | PlanGrid,
    cluster: Cluster, stack: SoftwareStack,
) -> LayerTimes:  # fmt: skip
    """Seconds of a layer of `kind` from the loads of its passes, (7, ...plans), and of the messages they carry.

    `pass_seconds` are of forward and backward, and, where some plan splits them, gradients of inputs.
    """

    def seconds(action: Kind) -> Seconds:
        ops = [(op, count) for op, count in messages[action].ops if isinstance(op, Message)]
        return sum((count * priced_message(op, plan, cluster) for op, count in ops), 0.0 * plan.tp)

    reduce = seconds(Kind.REDUCE_GRADIENTS)
    return LayerTimes(
        **{name: settled(own, stack).sum(axis=0) for name, own in zip(_PASSES, pass_seconds, strict=False)},
        gather=seconds(Kind.GATHER_PARAMETERS) * gathers_in_forward(plan),
        gather_again=seconds(Kind.GATHER_AGAIN) * gathers_in_backward(plan) * (kind not in KEPT_GATHERED),
        reduce=reduce * reduces_in_backward(plan),
        reduce_once=reduce * (1.0 - reduces_in_backward(plan)),
    )


def price_program(
    program: StepProgram, cluster: Cluster, stack: SoftwareStack
) -> dict[tuple[Kind, int], "ActionPrice"]:
    """The price of every (kind, chunk) of a lowered program; chunks that share their work share its price."""
    priced: dict[tuple[Kind, int], ActionPrice] = {}
    layers = _layer_times(program, cluster, stack)
    for (kind, chunk), work in program.work.items():
        if (kind, id(work)) not in priced:
            price = action_price(kind, work, program.plan, cluster, stack)
            if layers and kind in (Kind.FORWARD, Kind.BACKWARD, Kind.BACKWARD_INPUT):
                price = replace(price, layers=layer_prices(kind, program.layers[chunk], layers))
            priced[kind, id(work)] = price
    return {(kind, chunk): priced[kind, id(work)] for (kind, chunk), work in program.work.items()}


def _layer_times(program: StepProgram, cluster: Cluster, stack: SoftwareStack) -> dict[str, LayerTimes]:
    times = {}
    for name in dict.fromkeys(name for order in program.layers for name in order):
        work = {kind: program.layer_work[kind, name] for kind in _LAYER_ACTIONS}
        forward, backward = (load(work[kind], program.plan, cluster, stack)[:, None] for kind in _LAYER_ACTIONS[:2])
        times[name] = layer_times(name, (forward, backward), work, program.plan, cluster, stack)
    return times


_PASSES = ("forward", "backward", "backward_input")
_LAYER_ACTIONS = (
    Kind.FORWARD, Kind.BACKWARD, Kind.GATHER_PARAMETERS, Kind.GATHER_AGAIN, Kind.REDUCE_GRADIENTS
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ActionPrice:
    """The price of one action as the simulator plays it: part name of a `Breakdown` -> seconds, in order."""

    seconds_by_part: tuple[tuple[str, float], ...]
    layers: tuple[LayerPrice, ...] = ()
    """The layers it runs through, where they carry messages; those are not part of its seconds."""

    @property
    def total_seconds(self) -> float:
        """All of it."""
        return sum(seconds for _, seconds in self.seconds_by_part)

    def parts(self) -> dict[str, float]:
        """Part name -> seconds."""
        return dict(self.seconds_by_part)


_COMPUTE_PART = {
    Kind.FORWARD: "forward", Kind.BACKWARD: "backward", Kind.BACKWARD_INPUT: "backward",
    Kind.BACKWARD_WEIGHT: "backward", Kind.OPTIMIZER: "optimizer",
}  # fmt: skip


def action_price(kind: Kind, work: Work, plan: Plan, cluster: Cluster, stack: SoftwareStack) -> ActionPrice:
    """What one action of `kind` costs that runs `work`; without the layers of those that carry messages by layer."""
    if kind not in _COMPUTE_PART:
        axis = "pp" if kind in (Kind.SEND_FORWARD, Kind.SEND_BACKWARD) else "dp"
        messages = [(op, count) for op, count in work.ops if isinstance(op, Message)]
        return ActionPrice(((axis, float(sum(count * priced_message(op, plan, cluster) for op, count in messages))),))
    seconds = settled(load(work, plan, cluster, stack)[:, None], stack)[:, 0]
    names = (_COMPUTE_PART[kind], "recompute", "tp", "cp", "ep", "host")
    return ActionPrice(tuple((name, float(value)) for name, value in zip(names, seconds, strict=True) if value > 0.0))
