"""What is counted: kinds of replicas that serve together, and which need the fewest devices for a load."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.choose.serving_capacity import counts
from planner.choose.serving_capacity.demand import Floats, ServedDay
from planner.choose.serving_replicas import Replica
from planner.serving import ServingPlan


@dataclass(frozen=True, slots=True)
class Deployment:
    """One kind of replica that does everything, or one for prompts beside one that decodes."""

    replicas: tuple[Replica, ...]
    """In the order a request passes through them."""
    slowdown_factor: float = 1.0
    """By which simulation found a replica to take fewer requests than its closed form."""

    def counts(self, day: ServedDay, headroom_fraction: float, speed_factor: float = 1.0) -> tuple[Floats, ...]:
        """Replicas of each kind by the hour, where they take `speed_factor` times the requests that was said."""
        speed = speed_factor / self.slowdown_factor
        return tuple(
            counts.needed(day.requests_per_second, speed * one.most_requests_per_second, headroom_fraction)
            for one in self.replicas
        )

    def most_requests_per_second(self, numbers: Sequence[float]) -> float:
        """That so many replicas of each kind take."""
        most = (number * one.most_requests_per_second for number, one in zip(numbers, self.replicas, strict=True))
        return min(most) / self.slowdown_factor

    def plan(self, numbers: Sequence[float]) -> ServingPlan:
        """The deployment of so many replicas of each kind."""
        pools = [replace(one.plan.decode, replicas=int(n)) for n, one in zip(numbers, self.replicas, strict=True)]
        return replace(self.replicas[-1].plan, decode=pools[-1], prefill=pools[0] if len(pools) > 1 else None)


def promising(
    kinds: tuple[Sequence[Replica], Sequence[Replica], Sequence[Replica]], day: ServedDay, headroom_fraction: float,
    devices_per_instance: int, *, scales: bool,
) -> list[Deployment]:  # fmt: skip
    """Of each precision the deployments with the fewest device-hours for `day`: one pool, and two. Empty where no
    replica meets the targets.

    `kinds` as `planner.choose.serving_replicas.replicas` finds them. Of pools for prompts and for decoding the hours
    add, so that each is chosen by itself.
    """

    def best(those: Sequence[Replica]) -> Replica | None:
        usable = [one for one in those if one.most_requests_per_second > 0.0]
        if not usable:
            return None
        hours = _device_hours(usable, day, headroom_fraction, devices_per_instance, scales=scales)
        return usable[int(np.argmin(hours))]

    found = []
    for precision in sorted({one.precision for kind in kinds for one in kind}):
        whole, prompts, decodes = (best([one for one in kind if one.precision == precision]) for kind in kinds)
        found += [Deployment((whole,))] if whole else []
        found += [Deployment((prompts, decodes))] if prompts and decodes else []
    return found


def _device_hours(
    those: Sequence[Replica], day: ServedDay, headroom_fraction: float, devices_per_instance: int, *, scales: bool
) -> Floats:
    """Of each kind of replica, over the whole day."""
    most = np.array([[one.most_requests_per_second] for one in those])
    each = np.array([[float(one.num_devices)] for one in those])
    numbers = counts.needed(day.requests_per_second, most, headroom_fraction)
    paid = counts.devices(numbers, each, devices_per_instance)
    held = counts.autoscaled(paid, day.startup_seconds) if scales else counts.static(paid)
    return np.asarray(held.sum(axis=-1))
