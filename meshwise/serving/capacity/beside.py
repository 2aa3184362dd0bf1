"""Training on the devices that serving leaves: the fleet of the busiest hour, and what a second fleet would cost."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meshwise import asking, jobfile
from meshwise.longrun import DEFAULT_FLEET
from meshwise.options import SearchFlags
from meshwise.serving.capacity.table import TrainingBesideTable
from planner.choose.serving_capacity import counts
from planner.choose.serving_capacity.beside import SharedHours, TrainingPace, best_shared
from planner.choose.serving_capacity.demand import Floats
from planner.choose.serving_capacity.option import FleetOption
from planner.cost.goodput import Checkpoints, Interruptions, best_interval_seconds, checkpoint_bytes, goodput
from profiles import catalog
from profiles.reliability import Reliability
from profiles.units import DAY

NUM_SIZES = 6
"""Numbers of devices of the training job that are searched: whole hosts, doubled."""


@dataclass(frozen=True, slots=True)
class Beside:
    """One fleet for both jobs, against two."""

    fleet: FleetOption
    """The serving option whose devices are shared."""
    num_devices: int
    free_devices: Floats
    """That serving leaves in each hour."""
    shared: SharedHours
    paces: tuple[TrainingPace, ...]
    tokens: float
    days: float
    """Until the training job is done; infinite where it never runs."""
    dollars: float
    """Of the one fleet until then."""
    own_devices: int
    """Of a second fleet that trains as fast; 0: none searched is as fast."""
    two_fleets_dollars: float
    """Of that fleet, and of serving in its cheapest way on the same offer, until then."""


def train_beside(
    asked: TrainingBesideTable, folder: Path, fleet: FleetOption, cheapest: FleetOption,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Beside:  # fmt: skip
    """Train on what serving leaves of `fleet`, a static one; `cheapest` is the best way to serve alone on its offer.

    Raises ValueError for a job file that is no training job.
    """
    table = jobfile.read(folder / asked.job, {}, {}).job
    reliability = catalog.reliability(asked.fleet or DEFAULT_FLEET)
    host = fleet.offer.devices_per_instance
    num_devices = fleet.peak_devices
    free = _free_devices(fleet, num_devices)
    paces = _paces(table, fleet.offer.cluster, int(free.max()) // host * host, reliability, on_progress)
    shared = best_shared(free, paces)
    days = asked.tokens / shared.tokens_per_day if shared.tokens_per_day else math.inf
    own = next((one for one in paces if one.tokens_per_second * DAY >= shared.tokens_per_day), None)
    per_day = fleet.dollars / len(free) * 24.0
    second = per_day * own.num_devices / num_devices if own else math.nan
    return Beside(
        fleet, num_devices, free, shared, paces, asked.tokens, days, days * per_day, own.num_devices if own else 0,
        days * (cheapest.dollars / len(free) * 24.0 + second),
    )  # fmt: skip


def _free_devices(fleet: FleetOption, num_devices: int) -> Floats:
    """Of each hour; those that start for the next one are not free any more."""
    size = float(fleet.offer.devices_per_instance)
    pools = zip(fleet.num_replicas, fleet.deployment.replicas, strict=True)
    used = np.asarray(sum(counts.devices(each, float(one.num_devices), size) for each, one in pools))
    return num_devices - np.maximum(used, np.roll(used, -1))


def _paces(
    table: jobfile.JobTable, cluster: str, most: int, fleet: Reliability,
    on_progress: Callable[[str, int, int], None] | None,
) -> tuple[TrainingPace, ...]:  # fmt: skip
    """Of the job's best plan on each number of devices, with failures and checkpoints."""
    host = catalog.devices_per_host(catalog.cluster_spec(cluster))
    sizes = [host * 2**doubling for doubling in range(NUM_SIZES) if host * 2**doubling <= most]
    sizes += [most] if most > host and most not in sizes and most % host == 0 else []
    found = []
    for number, size in enumerate(sizes):
        if on_progress is not None:
            on_progress("train", number, len(sizes))
        question = jobfile.question(table.model_copy(update={"cluster": cluster, "devices": size}))
        best = asking.best_plans(question, {}, SearchFlags(top=1, no_simulate=True), lambda *_: None).candidates
        if best:
            found.append(_pace(question, size, float(best[0].estimate.breakdown.step_seconds), fleet))
    return tuple(found)


def _pace(question: jobfile.Question, size: int, step_seconds: float, fleet: Reliability) -> TrainingPace:
    """Two checkpoints' time and a launch whenever it is resized; failures as of a run of this size."""
    transfer = checkpoint_bytes(question.job, question.stack) / (fleet.storage_bytes_per_second_per_device * size)
    stops = Interruptions(fleet.seconds_between_interruptions(size), fleet.restart_seconds + transfer)
    saves = Checkpoints(float(best_interval_seconds(stops, transfer)), transfer)
    useful = float(goodput(stops, saves).useful_fraction)
    rate = question.job.tokens_per_step / step_seconds * useful
    return TrainingPace(size, rate, 2.0 * transfer + fleet.restart_seconds)
