"""Collectives as data: rounds of (source, target, bytes) between the members of a group.

An algorithm is one function, registered under its name with the collectives it serves. A round begins when the one
before has ended. Sizes follow nccl-tests (see `planner.work.ops.Message`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SWITCH = -1
"""In place of a member: the switch that the members share, which adds up what it gets and gives everyone the sum."""


@dataclass(frozen=True, slots=True)
class Round:
    """Flows that start together, by the places of their ends in the group."""

    source: Ints
    target: Ints
    num_bytes: Floats
    repeats: int = 1
    """Rounds like this one that follow each other, with other data on the same routes."""


Rounds = Callable[[str, float, int, int], Iterator[Round]]
"""(collective, num_bytes, size, inner) -> rounds. `inner` members lie together in each node, in order."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One way to run collectives."""

    name: str
    collectives: tuple[str, ...]
    make: Rounds
    serves: Callable[[int, int], bool]
    """(size, inner) -> whether it can run a group like that."""

    def rounds(self, collective: str, num_bytes: float, size: int, inner: int = 1) -> tuple[Round, ...]:
        """What a group of `size` does; nothing for a group of one.

        Raises ValueError for a collective, or a size, that the algorithm does not serve.
        """
        if collective not in self.collectives or not self.serves(size, inner):
            raise ValueError(
                f"algorithm: {self.name} does not run {collective} among {size} in nodes of {inner}; "
                f"it runs {', '.join(self.collectives)}"
            )
        return tuple(self.make(collective, num_bytes, size, inner)) if size > 1 else ()


ALGORITHMS: dict[str, Algorithm] = {}
"""The registry, by name."""


def algorithm(
    name: str, *collectives: str, serves: Callable[[int, int], bool] = lambda size, inner: True
) -> Callable[[Rounds], Rounds]:
    """Register the decorated function as the algorithm `name` of `collectives`."""

    def register(make: Rounds) -> Rounds:
        assert name not in ALGORITHMS, f"algorithm {name} is registered twice"
        ALGORITHMS[name] = Algorithm(name, collectives, make, serves)
        return make

    return register


def _shifted(size: int, distance: int, num_bytes: float, repeats: int = 1) -> Round:
    """Everyone sends to the member `distance` further on."""
    members = np.arange(size)
    return Round(members, (members + distance) % size, np.full(size, num_bytes), repeats)


@algorithm("ring", "all_reduce", "all_gather", "reduce_scatter")
def ring(collective: str, num_bytes: float, size: int, inner: int) -> Iterator[Round]:
    """n - 1 rounds of S / n around a ring, twice for an all-reduce [Patarasuk 2009, doi:10.1016/j.jpdc.2008.09.002]."""
    times = 2 if collective == "all_reduce" else 1
    yield _shifted(size, 1, num_bytes / size, times * (size - 1))


@algorithm("tree", "all_reduce")
def tree(collective: str, num_bytes: float, size: int, inner: int) -> Iterator[Round]:
    """Up a binomial tree and down again [Thakur 2005, doi:10.1177/1094342005051521, sections 4.4 and 4.5]."""
    rounds = []
    distance = 1
    while distance < size:
        source = np.arange(distance, size, 2 * distance)
        rounds.append(Round(source, source - distance, np.full(len(source), num_bytes)))
        distance *= 2
    yield from rounds
    yield from (Round(one.target, one.source, one.num_bytes) for one in reversed(rounds))


@algorithm(
    "halving-doubling", "all_reduce", "all_gather", "reduce_scatter", serves=lambda size, inner: not size & (size - 1)
)
def halving_doubling(collective: str, num_bytes: float, size: int, inner: int) -> Iterator[Round]:
    """Halves of what is left exchanged over ever shorter distances; for a gather the same backwards.

    [Thakur 2005, doi:10.1177/1094342005051521, section 4.5]
    """
    members, rounds = np.arange(size), []
    distance = size // 2
    while distance:
        rounds.append(Round(members, members ^ distance, np.full(size, num_bytes * distance / size)))
        distance //= 2
    if collective in ("all_reduce", "reduce_scatter"):
        yield from rounds
    if collective in ("all_reduce", "all_gather"):
        yield from reversed(rounds)


@algorithm("direct", "all_reduce", "all_gather", "reduce_scatter", "all_to_all")
def direct(collective: str, num_bytes: float, size: int, inner: int) -> Iterator[Round]:
    """Everyone sends each other its part at once: one round, two for an all-reduce [Thakur 2005, section 4.2]."""
    source, target = np.nonzero(~np.eye(size, dtype=bool))
    yield Round(source, target, np.full(len(source), num_bytes / size), 2 if collective == "all_reduce" else 1)


@algorithm("pairwise", "all_to_all")
def pairwise(collective: str, num_bytes: float, size: int, inner: int) -> Iterator[Round]:
    """n - 1 rounds, in each of which everyone sends to the member so much further on [Thakur 2005, section 4.2]."""
    for distance in range(1, size):
        yield _shifted(size, distance, num_bytes / size)


@algorithm(
    "hierarchical", "all_reduce", "all_gather", "reduce_scatter",
    serves=lambda size, inner: size % inner == 0,
)  # fmt: skip
def hierarchical(collective: str, num_bytes: float, size: int, inner: int) -> Iterator[Round]:
    """Rings within nodes, and among members of equal place across them [Cho 2019, BlueConnect, section 3]."""
    nodes = size // inner
    members = np.arange(size)
    neighbour = members // inner * inner + (members + 1) % inner
    within = Round(members, neighbour, np.full(size, num_bytes / inner), inner - 1)
    share = np.full(size, num_bytes / inner / nodes)
    times = 2 if collective == "all_reduce" else 1
    across = Round(members, (members + inner) % size, share, times * (nodes - 1))
    if collective in ("all_reduce", "reduce_scatter") and inner > 1:
        yield within
    if nodes > 1:
        yield across
    if collective in ("all_reduce", "all_gather") and inner > 1:
        yield within


@algorithm("in-switch", "all_reduce")
def in_switch(collective: str, num_bytes: float, size: int, inner: int) -> Iterator[Round]:
    """Every byte goes up to the switch once, which adds and sends the sum down [Graham 2016, SHArP]."""
    members, switch = np.arange(size), np.full(size, SWITCH)
    both = np.concatenate
    yield Round(both([members, switch]), both([switch, members]), np.full(2 * size, num_bytes))


@algorithm("neighbours", "send_recv")
def neighbours(collective: str, num_bytes: float, size: int, inner: int) -> Iterator[Round]:
    """Everyone sends to the next."""
    yield _shifted(size, 1, num_bytes)
