"""How flows share links: max-min fair, by filling all of them alike until a link or a flow's own limit stops some.

[Bertsekas 1992, Data Networks, section 6.5.2: progressive filling]
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]
Ints = NDArray[Any]
_FULL = 1e-12
"""Share of a link's capacity below which what is left of it counts as nothing."""


def fair_rates(usage: sparse.csr_array, capacity: Floats, limits: Floats | None = None) -> Floats:
    """The max-min fair rates of flows, shape (flows,).

    `usage` (flows x links): what a flow at rate 1 takes of each link (1 for a plain flow on its route); `capacity`
    (links,); `limits` (flows,): the most each flow can use, none where it is left out. A flow that takes nothing of
    any link gets its limit (inf without one).
    """
    flow = np.repeat(np.arange(usage.shape[0]), np.diff(usage.indptr))
    bounds = np.full(usage.shape[0], np.inf) if limits is None else limits
    return filled_rates(flow, usage.indices, usage.data, capacity, bounds)


def filled_rates(flow: Ints, link: Ints, taken: Floats, capacity: Floats, limits: Floats) -> Floats:
    """As `fair_rates`, from the entries of the usage: each `flow` takes `taken` of a `link` at rate 1.

    All rates rise together; a flow stops at its limit or when a link it uses is full.
    """
    num_links, num_flows = len(capacity), len(limits)
    rates = np.zeros(num_flows)
    left = np.array(capacity, dtype=float)
    full_below = _FULL * left
    rising = np.ones(num_flows)
    while rising.any():
        demand = np.bincount(link, taken * rising[flow], num_links)
        used = demand > 0.0
        step = min((left[used] / demand[used]).min(initial=np.inf), float((limits - rates)[rising > 0.0].min()))
        if step == np.inf:
            rates[rising > 0.0] = np.inf
            break
        rates += step * rising
        left -= step * demand
        full = used & (left <= full_below)
        stops = np.bincount(flow, taken * full[link], num_flows) > 0.0
        rising[stops | (rates >= limits * (1.0 - _FULL))] = 0.0
    return rates
