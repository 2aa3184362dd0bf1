"""Routers: which loop of a pool takes a request. Each is one function of the loops that are up, found by its name."""

from collections.abc import Callable, Sequence

from simulator.serving.batcher import Batcher

Router = Callable[[int, Sequence[Batcher], int], Batcher]
"""(request, loops that are up, how many requests this pool has routed) -> the loop that takes it."""

ROUTERS: dict[str, Router] = {}
_BUSIER_FACTOR, _BUSIER_REQUESTS = 1.5, 8
"""A loop is much busier when it has more than half as many requests again, and more than 8 more."""


def router(name: str) -> Callable[[Router], Router]:
    """Register a router."""

    def register(function: Router) -> Router:
        ROUTERS[name] = function
        return function

    return register


@router("round-robin")
def round_robin(request: int, loops: Sequence[Batcher], num_routed: int) -> Batcher:
    """One after another."""
    return loops[num_routed % len(loops)]


@router("least-loaded")
def least_loaded(request: int, loops: Sequence[Batcher], num_routed: int) -> Batcher:
    """The fewest requests that are not done; of equals the one whose turn it is."""
    count = len(loops)
    first = num_routed % count
    best = loops[first]
    for offset in range(first + 1, first + count):
        loop = loops[offset % count]
        if loop.num_outstanding < best.num_outstanding:
            best = loop
    return best


@router("prefix-aware")
def prefix_aware(request: int, loops: Sequence[Batcher], num_routed: int) -> Batcher:
    """The longest cached prefix among loops that are not much busier than the least busy one.

    Without the bound all requests of a popular prefix would queue at one loop.
    """
    least = least_loaded(request, loops, num_routed)
    bound = max(_BUSIER_FACTOR * least.num_outstanding, least.num_outstanding + _BUSIER_REQUESTS)
    names = least.ledger.prefix_ids(request)
    best, best_found = least, _found(least, names)
    for loop in loops:
        if loop.num_outstanding <= bound and (found := _found(loop, names)) > best_found:
            best, best_found = loop, found
    return best


def _found(loop: Batcher, names: Sequence[int]) -> int:
    return loop.cache.match(names)[0] if loop.cache is not None else 0
