"""Many plays of one random thing: the same results for the same seed, however many workers share them out."""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

import numpy as np

Played = TypeVar("Played")


def repeat(
    play: Callable[[np.random.Generator], Played], num_runs: int, seed: int, executor: Executor | None = None
) -> list[Played]:
    """Results of `num_runs` plays, each with its own generator spawned from `seed`, in the order of the seeds.

    `play` must be picklable where the executor has processes of its own; without an executor they run here.
    """
    seeds = np.random.SeedSequence(seed).spawn(num_runs)
    run = partial(_play_one, play)
    return list(map(run, seeds) if executor is None else executor.map(run, seeds))


def _play_one(play: Callable[[np.random.Generator], Played], seed: np.random.SeedSequence) -> Played:
    return play(np.random.default_rng(seed))
