"""`plan` of a serving job: the best deployments in closed form, played until one meets the targets."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from meshwise.serving.asking import question_of, rooms_of, space_of
from meshwise.serving.deployed import with_deployment, with_rate
from meshwise.serving.jobfile import ServingFile
from meshwise.serving.stage import PlayedCandidate, Stage
from planner.choose.serving import PricedReplicas, ServingCandidate, ServingFound, best_deployments, price_replicas
from planner.choose.serving_replicas import ServingQuestion
from planner.cost.serving import PriceBook
from planner.serving import ServingPlan
from profiles import catalog

NUM_PLAYED = 3
"""Deployments that are simulated at a time, the best first."""
RESERVES = (0.85, 1.0, 1.2, 1.45, 1.75, 2.1, 2.6, 3.3, 4.5, 6.5)
"""Rates that deployments are chosen for, over the asked one, until one meets the targets: closed forms are of steady
arrivals."""
NUM_HALVINGS = 6
"""In which the highest rate is found that meets the targets."""

OnProgress = Callable[[str, int, int], None] | None


@dataclass(frozen=True, slots=True)
class ServingPlans:
    """The answer of a search."""

    question: ServingQuestion
    found: ServingFound
    ranked: tuple[PlayedCandidate, ...]
    """Those that met the targets when played, best first; then those that were not played; then those that missed."""
    file: ServingFile
    num_requests: int
    """Of the load that were played: 0 where nothing was."""
    is_met: bool
    """Whether the first met the targets when played; without simulation, whether there is one."""

    @property
    def best_file(self) -> ServingFile:
        """The job with the first deployment, at the rate that it answers where the load has none."""
        best = self.ranked[0].candidate
        file = with_deployment(self.file, best.plan)
        return file if self.question.requests_per_second else with_rate(file, best.requests_per_second)


def best_plans(
    file: ServingFile, *, top: int = 10, simulates: bool = True, on_progress: OnProgress = None
) -> ServingPlans:
    """The best deployments of a job's one model. Fields that its [serving] table states are held,
    but for the number of replicas.

    Raises ValueError for several models, a closed loop, or names that are not known.
    """
    question = question_of(file, catalog.cluster(file.job.cluster, file.job.devices))
    question = replace(
        question, dollars_per_device_hour=file.job.dollars_per_device_hour, others=rooms_of(file)[1:],
        cluster_name=file.job.cluster,
    )  # fmt: skip
    book = PriceBook()
    priced = price_replicas(question, space_of(file.serving[0], question), book)
    found = best_deployments(priced, top=top)
    if not simulates or not found.candidates:
        ranked = tuple(PlayedCandidate(one) for one in found.candidates)
        return ServingPlans(question, found, ranked, file, 0, bool(ranked))
    is_timed = question.requests_per_second is not None
    stage = Stage(file, book, is_timed=is_timed)
    found, tried = (_cheapest if is_timed else _fastest)(priced, stage, top, on_progress)
    met = [one for one in tried if stage.meets(one)]
    missed = sorted((one for one in tried if not stage.meets(one)), key=_missed)
    plans = {one.candidate.plan for one in tried}
    rest = [PlayedCandidate(one) for one in found.candidates if one.plan not in plans] if met else []
    return ServingPlans(question, found, (*met, *rest, *missed)[:top], file, stage.num_requests, bool(met))


def _missed(one: PlayedCandidate) -> float:
    return -one.figures.attained_fraction.value if one.figures is not None else 0.0


def _cheapest(
    priced: PricedReplicas, stage: Stage, top: int, on_progress: OnProgress
) -> tuple[ServingFound, list[PlayedCandidate]]:
    """The cheapest few, with more in reserve from round to round until one meets the targets; all that were played,
    in that order."""
    tried: dict[ServingPlan, PlayedCandidate] = {}
    for number, reserve in enumerate(RESERVES):
        found = best_deployments(priced, top=top, reserve_factor=reserve)
        stable = [one for one in found.candidates if one.is_stable]
        for one in stable[:NUM_PLAYED]:
            if on_progress is not None:
                on_progress("simulate", number, len(RESERVES))
            if one.plan not in tried:
                tried[one.plan] = stage.played(one)
        if any(stage.meets(one) for one in tried.values()):
            break
    return found, list(tried.values())


def _fastest(
    priced: PricedReplicas, stage: Stage, top: int, on_progress: OnProgress
) -> tuple[ServingFound, list[PlayedCandidate]]:
    """The few that promise the highest rate, each at the highest that meets the targets, which is found by halving
    between what its closed form says and what it says with the most in reserve."""
    found = best_deployments(priced, top=top)
    tried = []
    for number, one in enumerate(found.candidates[:NUM_PLAYED]):
        if on_progress is not None:
            on_progress("simulate", number, NUM_PLAYED)
        tried.append(_at_its_highest_rate(one, stage))
    return found, sorted(tried, key=lambda one: -one.candidate.requests_per_second)


def _at_its_highest_rate(one: ServingCandidate, stage: Stage) -> PlayedCandidate:
    high = one.requests_per_second
    low, best = high / RESERVES[-1], stage.played(one)
    if stage.meets(best):
        return best
    for _ in range(NUM_HALVINGS):
        middle = (low * high) ** 0.5
        tried = stage.played(one.at(middle))
        if stage.meets(tried):
            low, best = middle, tried
        else:
            high, best = middle, best if stage.meets(best) else tried
    return best
