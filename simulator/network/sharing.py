"""How flows share links: max-min fair, by filling all of them alike until a link or a flow's own limit stops some.

[Bertsekas 1992, Data Networks, section 6.5.2: progressive filling]
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]
_FULL = 1e-12
"""Share of a link's capacity below which what is left of it counts as nothing."""


def fair_rates(usage: sparse.csr_array, capacity: Floats, limits: Floats | None = None) -> Floats:
    """The max-min fair rates of flows, shape (flows,).

    `usage` (flows x links): what a flow at rate 1 takes of each link (1 for a plain flow on its route); `capacity`
    (links,); `limits` (flows,): the most each flow can use, none where it is left out. A flow that takes nothing of
    any link gets its limit (inf without one). All rates rise together; a flow stops at its limit or when a link it
    uses is full.
    """
    limits = np.full(usage.shape[0], np.inf) if limits is None else limits
    rates = np.zeros(usage.shape[0])
    left = np.asarray(capacity, dtype=float).copy()
    by_link = usage.T.tocsr()
    rising = np.ones(usage.shape[0])
    while rising.any():
        demand = by_link @ rising
        used = demand > 0.0
        room = left[used] / demand[used]
        step = min(room.min(initial=np.inf), float((limits - rates)[rising > 0.0].min()))
        if step == np.inf:
            rates[rising > 0.0] = np.inf
            break
        rates += step * rising
        left -= step * demand
        full = used & (left <= _FULL * np.maximum(capacity, 1e-300))
        stops = (usage @ full.astype(float) > 0.0) | (rates >= limits * (1.0 - _FULL))
        rising = np.where(stops, 0.0, rising)
    return rates
