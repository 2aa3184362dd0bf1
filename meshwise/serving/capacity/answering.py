"""The capacity question of a serving job: offers and hours in, options and a played busiest hour out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meshwise.serving.capacity.beside import Beside, train_beside
from meshwise.serving.capacity.busy_hour import Settled, settle
from meshwise.serving.capacity.day import served_day
from meshwise.serving.capacity.hardware import hardware_of
from meshwise.serving.capacity.table import ServingCapacityTable, TrainingBesideTable
from meshwise.serving.jobfile import ServingFile
from planner.choose.serving_capacity.demand import ServedDay
from planner.choose.serving_capacity.deployment import Deployment
from planner.choose.serving_capacity.option import STATIC, FleetOption, Prices
from planner.choose.serving_capacity.rank import offered
from planner.serving import ServingPlan
from profiles import costs
from profiles.offer import Offer

NUM_SETTLED = 8
"""Deployments that are played at most, in search of a cheapest that holds."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ServingCapacityAnswer:
    """Every option, the cheapest first, and what is known of the first ones."""

    file: ServingFile
    asked: ServingCapacityTable
    day: ServedDay
    options: tuple[FleetOption, ...]
    settled: Mapping[ServingPlan, Settled]
    """By the kind of deployment (`kind_of`), those whose busiest hour was played."""
    refused: Mapping[str, str]
    """Offer -> why it is out."""
    beside: Beside | None = None
    """Training on what serving leaves, where it is asked for."""

    def played(self, option: FleetOption) -> Settled | None:
        """What the simulator made of its busiest hour; None where it was not played."""
        return self.settled.get(kind_of(option.deployment))

    @property
    def best(self) -> FleetOption | None:
        """The cheapest whose busiest hour was played and met the targets."""
        held = (one for one in self.options if (found := self.played(one)) is not None and found.is_met)
        return next(held, None)

    @property
    def by_offer(self) -> tuple[FleetOption, ...]:
        """The cheapest way to pay each offer."""
        seen: dict[str, FleetOption] = {}
        for one in self.options:
            seen.setdefault(one.offer.name, one)
        return tuple(seen.values())

    def of(self, offer: Offer) -> dict[str, FleetOption]:
        """Every way to pay an offer, by how."""
        found: dict[str, FleetOption] = {}
        for one in self.options:
            if one.lines[0].offer.name == offer.name:
                found.setdefault(one.how, one)
        return found


def kind_of(deployment: Deployment) -> ServingPlan:
    """The deployment with one replica of each kind, which names it."""
    return deployment.plan([1.0] * len(deployment.replicas))


def answer(
    file: ServingFile, asked: ServingCapacityTable, offers: Sequence[Offer], folder: Path = Path(),
    on_progress: Progress | None = None,
) -> ServingCapacityAnswer:  # fmt: skip
    """Price every offer for the job's hours, and play the busiest hour until the cheapest holds.

    Files that `asked` names are relative to `folder`.

    Raises ValueError for several models, closed loops and names that are not known.
    """
    day = served_day(file, asked)
    prices = Prices(costs.power_shares(), costs.ownership().model_copy(update={"utilisation_fraction": 1.0}))
    hardware = hardware_of(file, (offer.cluster for offer in offers), asked.max_hosts, on_progress)
    settled: dict[ServingPlan, Settled] = {}

    def revised(deployment: Deployment) -> Deployment:
        known = settled.get(kind_of(deployment))
        return replace(deployment, slowdown_factor=known.deployment.slowdown_factor) if known else deployment

    for number in range(NUM_SETTLED + 1):
        options, refused = offered(offers, hardware, day, prices, revised)
        if not options or number == NUM_SETTLED or kind_of(options[0].deployment) in settled:
            break
        if on_progress is not None:
            on_progress("simulate", number, NUM_SETTLED)
        first = options[0].deployment
        headroom = day.headroom(hardware[options[0].offer.cluster].error_factor)
        settled[kind_of(first)] = settle(file, first, day, headroom)
    found = ServingCapacityAnswer(file, asked, day, options, settled, refused)
    if asked.training is None:
        return found
    return replace(found, beside=_beside(found, asked.training, folder, on_progress))


def _beside(
    found: ServingCapacityAnswer, asked: TrainingBesideTable, folder: Path, on_progress: Progress | None
) -> Beside | None:
    """On the cheapest fleet that is held at all hours."""
    static = next((one for one in found.options if one.how == STATIC), None)
    if static is None:
        return None
    alone = next(one for one in found.options if one.lines[0].offer.name == static.offer.name)
    return train_beside(asked, folder, static, alone, on_progress)
