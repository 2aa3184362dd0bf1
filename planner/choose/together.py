"""Several models on the same devices: what each gets, alone or half a device beside another, the cheapest of all."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from planner.choose.serving_replicas import Replica, Room, ServingQuestion, ServingSpace, replicas
from planner.cost.serving_load import open_loop
from planner.serving import ServingPlan

SHARES = (1.0, 0.5)
"""Of a device that a replica may have: all of it, or half of its time and memory beside half a replica of its size."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One model on one kind of devices, as its load needs it."""

    plan: ServingPlan
    room: Room
    ttft_tail_seconds: float
    tpot_seconds: float

    @property
    def size(self) -> int:
        """Devices that a replica lies on."""
        return self.plan.decode.num_devices // self.plan.decode.replicas

    @property
    def fewest_devices(self) -> float:
        """Where every half finds another."""
        return self.plan.decode.num_devices * self.plan.decode.device_fraction


@dataclass(frozen=True, slots=True)
class Together:
    """A choice for each model, and the devices of each room that all take together."""

    choices: tuple[Choice, ...]
    devices: Mapping[str, int]
    dollars_per_hour: float | None
    """None where not all rooms have a price; then fewer devices are better."""

    @property
    def num_devices(self) -> int:
        """Of all rooms."""
        return sum(self.devices.values())


def able(
    question: ServingQuestion, space: ServingSpace, refused: Counter[str], device_fraction: Sequence[float] = SHARES
) -> list[Replica]:
    """Every replica, of whole devices and of each `device_fraction`, that meets the question's targets at some rate."""
    found = []
    for share in device_fraction:
        whole, _, _ = replicas(question, replace(space, disaggregates=False, device_fraction=share), refused)
        found += [one for one in whole if one.most_requests_per_second > 0.0]
        refused["an idle replica misses the targets"] += sum(one.most_requests_per_second <= 0.0 for one in whole)
    return found


def choices(those: Sequence[Replica], requests_per_second: float, reserve_factor: float = 1.0) -> list[Choice]:
    """Of each room, size of replica and share the deployment with the fewest replicas for `reserve_factor` times the
    rate."""
    best: dict[tuple[str, int, float], Choice] = {}
    for one in those:
        count = math.ceil(reserve_factor * requests_per_second / one.most_requests_per_second)
        key = (one.room.name, one.num_devices, one.plan.decode.device_fraction)
        if key in best and best[key].plan.decode.replicas < count:
            continue
        found = open_loop(one.curve, requests_per_second / count)
        plan = replace(one.plan, decode=replace(one.plan.decode, replicas=count))
        made = Choice(plan, one.room, float(found.ttft_tail_seconds), float(found.tpot_seconds))
        if key not in best or _rank(made) < _rank(best[key]):
            best[key] = made
    return list(best.values())


def _rank(one: Choice) -> tuple[float, float]:
    return (one.plan.decode.replicas, one.ttft_tail_seconds + one.tpot_seconds)


def placed(options: Sequence[Sequence[Choice]], rooms: Sequence[Room], top: int = 5) -> list[Together]:
    """The `top` cheapest combinations of one choice for each model that fit into the rooms, exactly.

    Depth first with a bound: what is chosen costs at least its fewest devices, and so does the rest.
    """
    is_priced = all(room.dollars_per_device_hour is not None for room in rooms)
    prices = {room.name: (room.dollars_per_device_hour or 0.0) if is_priced else 1.0 for room in rooms}
    sizes = {room.name: room.cluster.num_devices for room in rooms}
    least = [min((_least(one, prices) for one in these), default=math.inf) for these in options]
    rest = [math.fsum(least[number:]) for number in range(len(options) + 1)]
    found: list[tuple[float, float, Together]] = []

    def extend(chosen: tuple[Choice, ...], bound: float) -> None:
        limit = found[-1][0] if len(found) == top else math.inf
        number = len(chosen)
        if bound + rest[number] > limit:
            return
        if number == len(options):
            devices = _devices(chosen)
            if all(count <= sizes[name] for name, count in devices.items()):
                cost = sum(prices[name] * count for name, count in devices.items())
                made = Together(chosen, devices, cost if is_priced else None)
                found.append((cost, sum(each.tpot_seconds for each in chosen), made))
                found.sort(key=lambda one: one[:2])
                del found[top:]
            return
        for one in sorted(options[number], key=lambda one: _least(one, prices)):
            extend((*chosen, one), bound + _least(one, prices))

    extend((), 0.0)
    return [one for _, _, one in found]


def _least(one: Choice, prices: Mapping[str, float]) -> float:
    return one.fewest_devices * prices[one.room.name]


def _devices(chosen: Sequence[Choice]) -> dict[str, int]:
    """Of each room; halves of one size lie beside one another, and an odd one has a device to itself."""
    taken: Counter[str] = Counter()
    halves: Counter[tuple[str, int]] = Counter()
    for one in chosen:
        if one.plan.decode.device_fraction == 1.0:
            taken[one.room.name] += one.plan.decode.num_devices
        else:
            halves[one.room.name, one.size] += one.plan.decode.replicas
    for (name, size), count in halves.items():
        taken[name] += -(-count // 2) * size
    return dict(taken)
