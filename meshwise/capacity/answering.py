"""The answer to a capacity question: searches remembered or run, then priced, ranked and compared."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

from meshwise.capacity.cache import PaceCache
from meshwise.capacity.question import CapacityQuestion
from meshwise.screen import OnProgress
from planner.choose.capacity.answer import Ranking, Setup, rank
from planner.choose.capacity.fanout import find_paces
from planner.choose.capacity.pace import NoPace, Pace
from simulator.workers import workers


@dataclass(frozen=True, slots=True)
class CapacityAnswer:
    """What to buy or rent."""

    question: CapacityQuestion
    ranking: Ranking
    paces: dict[Setup, Pace | NoPace]
    num_searched: int
    """Searches run; the others were remembered."""
    elapsed_seconds: float


def answer(
    question: CapacityQuestion, cache: PaceCache | None, executor: Executor | None, on_progress: OnProgress
) -> CapacityAnswer:
    """Search what the cache does not remember on `executor` (None: here), then rank every offer."""
    started = time.perf_counter()
    setups = question.setups
    paces: dict[Setup, Pace | NoPace] = dict(setups.impossible)
    if cache:
        remembered = {setup: cache.get(one) for setup, one in setups.scenarios.items()}
        paces |= {setup: known for setup, known in remembered.items() if known is not None}
    missing = {setup: one for setup, one in setups.scenarios.items() if setup not in paces}
    done = 0

    def keep(setup: Setup, found: Pace | NoPace) -> None:
        nonlocal done
        done += 1
        if cache:
            cache.put(missing[setup], found)
        on_progress("search", done, len(missing))

    paces |= find_paces(missing, executor, keep)
    ranking = rank(setups.offers, setups.counts, paces, question.demand)
    return CapacityAnswer(question, ranking, paces, len(missing), time.perf_counter() - started)


@contextmanager
def searchers(question: CapacityQuestion, num_workers: int | None, scheduler: str | None) -> Iterator[Executor | None]:
    """Who runs the searches of `question`: a pool of one process a core unless told otherwise; raises as `workers`."""
    count = num_workers or os.cpu_count() or 1
    with workers(count, scheduler, max(1, len(question.setups.scenarios))) as executor:
        yield executor
