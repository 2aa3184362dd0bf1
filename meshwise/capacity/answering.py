"""The answer to a capacity question: searches remembered or run, then priced, ranked and compared."""

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from meshwise.capacity.cache import PaceCache, digest
from meshwise.capacity.question import CapacityQuestion, question
from meshwise.capacity.setups import scenario
from meshwise.screen import OnProgress
from planner.choose.capacity.affordable import Largest, largest
from planner.choose.capacity.answer import Ranking, Setup, rank
from planner.choose.capacity.breakeven import BreakEven, break_evens
from planner.choose.capacity.chances import choice_fractions
from planner.choose.capacity.fanout import find_paces
from planner.choose.capacity.pace import NoPace, Pace
from planner.choose.capacity.scaling import Curve, curve
from planner.choose.capacity.whatif import WhatIf, what_ifs
from planner.choose.requirements import Scenario
from profiles import catalog
from profiles.parameters import num_parameters
from simulator.workers import workers

Paces = Mapping[Setup, Pace | NoPace]


@dataclass(frozen=True, slots=True)
class Member:
    """A model of a family of shapes, in the place of the job's."""

    model: str
    num_parameters: float
    ranking: Ranking
    largest: Largest | None


@dataclass(frozen=True, slots=True)
class CapacityAnswer:
    """What to buy or rent."""

    question: CapacityQuestion
    ranking: Ranking
    chances: Mapping[tuple[str, int], float]
    """Key of an option -> how likely it turns out to be the cheapest that will do."""
    what_ifs: tuple[WhatIf, ...]
    """What would change the choice; none where nothing will do."""
    break_evens: tuple[BreakEven, ...]
    largest: Largest | None
    """The most tokens that time and money allow; None without a limit."""
    family: tuple[Member, ...]
    """The models of the stated family, the largest first."""
    curves: tuple[Curve, ...]
    """Strong scaling of each cluster with two numbers of devices or more, and weak scaling of the best option's."""
    paces: Paces
    num_searched: int
    """Searches run; the others were remembered."""
    elapsed_seconds: float


@dataclass(slots=True)
class _Searches:
    """Runs what is not remembered, and counts it."""

    cache: PaceCache | None
    executor: Executor | None
    on_progress: OnProgress
    num_searched: int = field(default=0)

    def paces(self, scenarios: Mapping[Setup, Scenario]) -> dict[Setup, Pace | NoPace]:
        """The pace of each scenario; those that are alike in all but names are searched once."""
        names = {setup: digest(one) for setup, one in scenarios.items()}
        known: dict[str, Pace | NoPace] = {}
        missing: dict[str, Scenario] = {}
        for setup, one in scenarios.items():
            name = names[setup]
            remembered = self.cache.get(name, one.cluster.num_devices) if self.cache else None
            if remembered is None:
                missing[name] = one
            else:
                known[name] = remembered
        done = 0

        def keep(name: str, found: Pace | NoPace) -> None:
            nonlocal done
            done += 1
            if self.cache:
                self.cache.put(name, found)
            self.on_progress("search", done, len(missing))

        self.num_searched += len(missing)
        known |= find_paces(missing, self.executor, keep)
        return {setup: known[name] for setup, name in names.items()}


def answer(
    asked: CapacityQuestion, cache: PaceCache | None, executor: Executor | None, on_progress: OnProgress
) -> CapacityAnswer:
    """Search what the cache does not remember on `executor` (None: here), then rank and compare every offer."""
    started = time.perf_counter()
    searches, setups, demand = _Searches(cache, executor, on_progress), asked.setups, asked.demand
    paces: Paces = setups.impossible | searches.paces(setups.scenarios)
    ranking = rank(setups.offers, setups.counts, paces, demand)
    best = ranking.best or next(iter(ranking.options), None)
    return CapacityAnswer(
        question=asked,
        ranking=ranking,
        chances=choice_fractions(ranking.options, demand, np.random.default_rng(0)),
        what_ifs=tuple(what_ifs(best, setups.offers, setups.counts, paces, demand)) if ranking.best and best else (),
        break_evens=tuple(break_evens(ranking.options, demand)),
        largest=largest(ranking.options, demand),
        family=_family(asked, searches),
        curves=(
            *_strong(paces, demand.tokens_per_step),
            *(_weak(asked, best.offer.cluster, paces, searches) if best else ()),
        ),
        paces=paces,
        num_searched=searches.num_searched,
        elapsed_seconds=time.perf_counter() - started,
    )


def _strong(paces: Paces, tokens_per_step: float) -> Iterator[Curve]:
    for cluster in sorted({cluster for cluster, _ in paces}):
        found = [(*one, tokens_per_step) for one in _at(cluster, paces)]
        if len(found) > 1:
            yield curve(cluster, found)


def _weak(asked: CapacityQuestion, cluster: str, paces: Paces, searches: _Searches) -> Iterator[Curve]:
    """The job with a batch that grows with the devices, from the fewest on that fit."""
    numbers = [number for number, _ in _at(cluster, paces)]
    if len(numbers) < 2:
        return
    batch, scenarios = asked.job.global_batch or 1, {}
    for number in numbers:
        table = asked.job.model_copy(update={"global_batch": batch * number // numbers[0]})
        scenarios[cluster, number] = scenario(table, cluster, number)
    found = searches.paces(scenarios)
    tokens = [(number, one, scenarios[cluster, number].job.tokens_per_step) for number, one in _at(cluster, found)]
    yield curve(cluster, tokens, is_weak=True)


def _at(cluster: str, paces: Paces) -> list[tuple[int, Pace]]:
    """(devices, pace) on one cluster, by devices."""
    return sorted(
        ((number, one) for (name, number), one in paces.items() if name == cluster and isinstance(one, Pace)),
        key=lambda one: one[0],
    )


def _family(asked: CapacityQuestion, searches: _Searches) -> tuple[Member, ...]:
    found = []
    for name in asked.stated.family:
        other = question(asked.job.model_copy(update={"model": name}), asked.stated, asked.own)
        setups = other.setups
        paces = setups.impossible | searches.paces(setups.scenarios)
        ranking = rank(setups.offers, setups.counts, paces, other.demand)
        size = num_parameters(catalog.model(name))
        found.append(Member(name, size, ranking, largest(ranking.options, other.demand)))
    return tuple(sorted(found, key=lambda one: -one.num_parameters))


@contextmanager
def searchers(asked: CapacityQuestion, num_workers: int | None, scheduler: str | None) -> Iterator[Executor | None]:
    """Who runs the searches of a question: a pool of one process a core unless told otherwise; raises as `workers`."""
    count = num_workers or os.cpu_count() or 1
    with workers(count, scheduler, max(1, len(asked.setups.scenarios))) as executor:
        yield executor
