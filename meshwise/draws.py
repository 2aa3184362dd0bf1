"""Many runs of something random, as the flags say: how many, with what seed, who plays them, what is taken up again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from scipy.special import stdtrit

from simulator.repeat import Journal, repeat
from simulator.workers import workers

Played = TypeVar("Played")
FLAGS = ("seed", "runs", "workers", "scheduler", "resume")
DEFAULT_RUNS = 100


def play_runs(
    play: Callable[[np.random.Generator], Played], flags: Mapping[str, Any], what: str,
    write: Callable[[Played], Any], read: Callable[[Any], Played],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Played]:  # fmt: skip
    """All runs, shared out as the flags say; those of a file to resume are taken from it.

    `what` is all that they depend on but the seed; `write` and `read` turn a result into JSON values and back.
    """
    num_runs, seed = flags.get("runs") or DEFAULT_RUNS, flags.get("seed") or 0
    journal = Journal(flags["resume"], f"{what} seed {seed}", write, read) if "resume" in flags else None
    with workers(flags.get("workers"), flags.get("scheduler"), num_runs) as executor:
        return repeat(play, num_runs, seed, executor, journal=journal, on_progress=on_progress)


def mean_error(values: Sequence[float]) -> float:
    """Half the width of the 95 % confidence interval of the mean, by Student's t."""
    return float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(len(values)))
