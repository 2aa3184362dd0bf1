"""Which offers are looked at, at which numbers of devices: every cluster and number of devices is searched once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshwise import jobfile
from meshwise.capacity.quantities import counts
from meshwise.capacity.table import CapacityTable
from meshwise.jobfile import JobTable
from planner.choose.capacity.answer import Setup
from planner.choose.capacity.demand import Demand
from planner.choose.capacity.pace import NoPace
from planner.choose.requirements import Scenario
from planner.work.layers import model_flops
from profiles.offer import Offer
from profiles.units import DAY

HORIZON_SECONDS = 365.0 * DAY
"""Without a deadline, the smallest number of devices looked at could do the job in this time at their peak rate."""
NUM_DOUBLINGS = 5
"""Numbers of devices are doubled so often from the smallest that could be in time at its peak rate."""


@dataclass(slots=True)
class Setups:
    """Offers with the numbers of devices each is looked at, and what is to be searched for them."""

    offers: tuple[Offer, ...]
    counts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Numbers of devices, by offer."""
    scenarios: dict[Setup, Scenario] = field(default_factory=dict)
    """What is to be searched."""
    impossible: dict[Setup, NoPace] = field(default_factory=dict)
    """What needs no search, and why."""
    unused: dict[str, str] = field(default_factory=dict)
    """Offers without a number of devices that they have -> why."""


def laid_out(table: JobTable, stated: CapacityTable, offers: Sequence[Offer], demand: Demand) -> Setups:
    """The numbers of devices of each offer; raises ValueError where what is stated cannot be read."""
    made, stated_counts = Setups(tuple(offers)), _stated_counts(table, stated)
    for offer in offers:
        numbers = stated_counts or _usual_counts(table, offer, demand)
        usable = made.counts[offer.name] = tuple(number for number in numbers if offer.allows(number))
        if not usable:
            made.unused[offer.name] = _why_unused(offer, numbers)
        for setup in ((offer.cluster, number) for number in usable):
            if setup not in made.scenarios and setup not in made.impossible:
                try:
                    made.scenarios[setup] = scenario(table, *setup)
                except ValueError as error:
                    made.impossible[setup] = NoPace(str(error), None, 0)
    return made


def scenario(table: JobTable, cluster: str, num_devices: int) -> Scenario:
    """The job on so many devices of a cluster; raises ValueError where they do not suit each other."""
    asked = jobfile.question(table.model_copy(update={"cluster": cluster, "devices": num_devices}))
    return Scenario(asked.job, asked.alike("capacity"), asked.stack)


def _stated_counts(table: JobTable, stated: CapacityTable) -> tuple[int, ...]:
    if isinstance(stated.counts, str):
        return counts(stated.counts, "counts")
    if stated.counts:
        return tuple(sorted(set(stated.counts)))
    return (table.devices,) if table.devices else ()


def _usual_counts(table: JobTable, offer: Offer, demand: Demand) -> tuple[int, ...]:
    """Doublings from the smallest number of instances whose peak rate could meet the deadline; the largest there is
    where even that is too small."""
    try:
        one = scenario(table, offer.cluster, offer.devices_per_instance)
    except ValueError:
        return (offer.devices_per_instance,)  # no number of them suits the job; which is said of one
    peak = one.cluster.accelerator.flops_per_second(one.job.compute_dtype)
    seconds = min(demand.deadline_seconds, HORIZON_SECONDS)
    needed = demand.tokens / demand.tokens_per_step * model_flops(one.job) / peak / seconds
    instances = max(1.0, needed / offer.devices_per_instance)
    first = offer.devices_per_instance * 2 ** math.ceil(math.log2(instances))
    if offer.max_devices is not None and first > offer.max_devices:
        return (offer.max_devices // offer.devices_per_instance * offer.devices_per_instance,)
    return tuple(first * 2**doubling for doubling in range(NUM_DOUBLINGS + 1))


def _why_unused(offer: Offer, numbers: Sequence[int]) -> str:
    if offer.max_devices is not None and min(numbers) > offer.max_devices:
        return f"not enough devices offered: {offer.max_devices:,} at most"
    return f"sold by {offer.devices_per_instance:,} devices, and none of {', '.join(map(str, numbers))} is so many"
