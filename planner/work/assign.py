"""The best assignment of a sequence of layers to chunks, found exactly."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_LIMITS = 24
"""Slowest chunks that are tried."""
TIE = 1e-9
"""Relative difference under which two assignments have the same slowest chunk."""


def assign(
    costs: Floats, num_chunks: int, first: float = 0.0, last: float = 0.0, allowed: NDArray[np.bool_] | None = None,
    num_microbatches: float | None = None,
) -> tuple[int, ...]:  # fmt: skip
    """How many of the layers with `costs` each of `num_chunks` takes so that the slowest is fastest.

    `costs` are those of a layer on every chunk, (layers,), or on each of chunks that differ, (chunks, layers).
    `first` and `last` are what the first and the last chunk have to do besides (embedding, head): only those may
    take no layer. `allowed`, (chunks, layers + 1, layers + 1), says which chunk may hold the layers from i up to j.
    With `num_microbatches` m, (m - 1) x slowest + sum is least: on devices that differ the sum does too, and a step of
    few microbatches is shorter with more on the fast ones.

    Of assignments with the same slowest chunk, the one with the least sum of squares is taken. A dynamic program
    over (chunk, layers so far), exact [Bellman 1957; for pipelines: Narayanan 2019, PipeDream, arXiv:1806.03377,
    section 3.1]. Raises ValueError when no assignment is allowed.
    """
    whole = _chunk_costs(costs, num_chunks, first, last)
    if allowed is not None:
        whole = np.where(allowed, whole, np.inf)
    slowest = _least(whole, np.maximum)[0]
    if not np.isfinite(slowest):
        raise ValueError(f"layout: {np.shape(costs)[-1]} layers cannot be dealt out to {num_chunks} chunks")
    if num_microbatches is not None:
        ends = _shortest_step(whole, slowest, num_microbatches)
        return tuple(int(count) for count in np.diff([0, *ends]))
    even = np.where(whole <= slowest * (1.0 + TIE), whole**2, np.inf)
    ends = _least(even, np.add)[1]
    return tuple(int(count) for count in np.diff([0, *ends]))


def _shortest_step(whole: Floats, slowest: float, num_microbatches: float) -> list[int]:
    """Where chunks end so that (m - 1) x slowest + sum is least.

    For some limits on the slowest chunk, from the least on, the least sum is found: MOST_LIMITS of them, evenly spread
    up to where no sum can make up for it.
    """
    rounds = max(num_microbatches - 1.0, 0.0)
    first_sum = _least(np.where(whole <= slowest * (1.0 + TIE), whole, np.inf), np.add)[0]
    most = slowest + (first_sum - _least(whole, np.add)[0]) / rounds if rounds else np.inf
    limits = np.unique(whole[np.isfinite(whole) & (whole >= slowest) & (whole <= most * (1.0 + TIE))])
    picked = limits[np.unique(np.linspace(0, len(limits) - 1, min(len(limits), MOST_LIMITS)).astype(int))]
    best, ends = np.inf, list[int]()
    for limit in picked:
        total, found = _least(np.where(whole <= limit * (1.0 + TIE), whole, np.inf), np.add)
        if rounds * limit + total < best:
            best, ends = rounds * limit + total, found
    return ends


def _chunk_costs(costs: Floats, num_chunks: int, first: float, last: float) -> Floats:
    """Cost of every chunk with the layers from i up to j, (chunks, layers + 1, layers + 1); infinite if it may not."""
    by_chunk = np.broadcast_to(costs, (num_chunks, np.shape(costs)[-1]))
    sums = np.concatenate([np.zeros((num_chunks, 1)), np.cumsum(by_chunk, axis=1)], axis=1)
    index = np.arange(sums.shape[1])
    filled = index[None, :] > index[:, None]
    whole = np.where(filled, sums[:, None, :] - sums[:, :, None], np.inf)
    for chunk in (0, -1):
        whole[chunk, index, index] = 0.0
    whole[0] += first
    whole[-1] += last
    return whole


def _least(whole: Floats, join: Any) -> tuple[float, list[int]]:
    """The least of all ways to `join` the costs of chunks that follow each other, and where each chunk ends."""
    reached = np.full(whole.shape[1], np.inf)
    reached[0] = 0.0
    came: list[NDArray[np.intp]] = []
    for cost in whole:
        joined = join(reached[:, None], cost)
        came.append(joined.argmin(axis=0))
        reached = joined.min(axis=0)
    ends = [whole.shape[1] - 1]
    for choice in reversed(came[1:]):
        ends.append(int(choice[ends[-1]]))
    return float(reached[-1]), ends[::-1]
