"""Work that depends on a few columns of a grid is done once for each of their combinations, then gathered."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.plan import PlanGrid


def combinations(grid: PlanGrid, columns: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows, inverse): one row of the grid for each combination of `columns`, and each plan's combination.

    `grid.take(rows)` holds the combinations; `values[inverse]` carries a result back to all plans.
    """
    return distinct_rows([getattr(grid, column) for column in columns])


def distinct_rows(columns: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows, inverse) as `combinations`, of equally long columns of whole numbers that are not negative.

    Counting in place of sorting makes it linear in their length.
    """
    codes, size = np.zeros(len(columns[0]), dtype=np.int64), 1
    for values in columns:
        least, most = int(values.min(initial=np.iinfo(np.int64).max)), int(values.max(initial=0))
        if least >= most:
            continue
        if size * (most + 1) > len(codes):  # renumbering is what takes time: only before codes would have many gaps
            codes = _compact(codes)
            size = int(codes.max()) + 1
        codes, size = codes * (most + 1) + values, size * (most + 1)
    codes = _compact(codes)
    rows = np.empty(int(codes.max(initial=-1)) + 1, dtype=np.int64)
    rows[codes[::-1]] = np.arange(len(codes))[::-1]
    return rows, codes


def _compact(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber codes as 0, 1, ... without gaps."""
    largest = int(codes.max(initial=0))
    if largest > 16 * len(codes) + 4096:
        return np.asarray(np.unique(codes, return_inverse=True)[1], dtype=np.int64)
    present = np.zeros(largest + 1, dtype=bool)
    present[codes] = True
    return (np.cumsum(present) - 1)[codes]


def gather(values: Any, inverse: NDArray[np.int64]) -> NDArray[np.float64]:
    """Carry the results of combinations, shape (..., combinations), back to all plans."""
    return np.take(np.asarray(values, dtype=float), inverse, axis=-1)
