"""Where a plan's replicas and stages can lie on groups of nodes, before layers and microbatches are dealt out.

Replicas lie side by side, each on one group; or in line, their stages on one group after the other; or both: in line,
and what the groups have left side by side.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.choose.knobs import divisors
from planner.placement import Placement
from profiles.mixed import MixedCluster

MOST_STAGES = 64
"""Stages of a pipeline over several groups."""
FEW_CHOICES = 6
"""Numbers of stages that are tried on each of more than two groups."""

Stages = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Degrees, and replicas by the groups that hold their stages."""

    tp: int
    cp: int
    lanes: tuple[tuple[int, Stages], ...]
    """(replicas, group of each stage)."""

    @property
    def pp(self) -> int:
        """Stages of every replica."""
        return len(self.lanes[0][1])

    @property
    def way(self) -> str:
        """How it lies on the groups."""
        return _way([stages for _, stages in self.lanes])

    @property
    def dp(self) -> int:
        """All replicas."""
        return sum(number for number, _ in self.lanes)


def way_of(placement: Placement) -> str:
    """How the replicas of a placement lie on the groups: `alone on h100`, `side by side`, `in line`, or both."""
    return _way([lane.stages for lane in placement])


def _way(lanes: Sequence[Stages]) -> str:
    names = {name for stages in lanes for name in stages}
    if len(names) == 1:
        return f"alone on {names.pop()}"
    spanning = [len(set(stages)) > 1 for stages in lanes]
    return "in line" if all(spanning) else "in line and side by side" if any(spanning) else "side by side"


def skeletons(cluster: MixedCluster, tp: int, cp: int, most_stages: int) -> Iterator[Skeleton]:
    """Every skeleton of a tensor- and context-parallel degree that uses several groups, shallow pipelines first.

    Pipelines in line are tried with every number of replicas and, on two groups, with every number of stages on each.
    """
    cells = {group.name: group.cluster.num_devices // (tp * cp) for group in cluster.groups}
    cells = {name: number for name, number in cells.items() if number}
    for size in range(2, len(cells) + 1):
        for names in itertools.combinations(cells, size):
            yield from _side_by_side(names, cells, tp, cp, most_stages)
            for order in itertools.permutations(names):
                yield from _in_line(order, cells, tp, cp, min(most_stages, MOST_STAGES))


def _side_by_side(names: Stages, cells: dict[str, int], tp: int, cp: int, most: int) -> Iterator[Skeleton]:
    for pp in range(1, min(most, *(cells[name] for name in names)) + 1):
        yield Skeleton(tp, cp, tuple((cells[name] // pp, (name,) * pp) for name in names))


def _in_line(names: Stages, cells: dict[str, int], tp: int, cp: int, most: int) -> Iterator[Skeleton]:
    for dp in range(1, min(cells[name] for name in names) + 1):
        choices = [_counts(cells[name] // dp, most, exact=len(names) == 2) for name in names]
        for counts in itertools.product(*choices):
            if sum(counts) > most:
                continue
            stages = tuple(name for name, count in zip(names, counts, strict=True) for _ in range(count))
            yield Skeleton(tp, cp, ((dp, stages),))
            used = {name: dp * count for name, count in zip(names, counts, strict=True)}
            left = [(number - used.get(name, 0)) // len(stages) for name, number in cells.items()]
            rest = tuple((number, (name,) * len(stages)) for name, number in zip(cells, left, strict=True) if number)
            if rest:
                yield Skeleton(tp, cp, ((dp, stages), *rest))


def _counts(available: int, most: int, *, exact: bool) -> list[int]:
    """Numbers of stages on a group that has so many places for each replica."""
    largest = min(available, most - 1)
    if exact:
        return list(range(1, largest + 1))
    return sorted({1, largest, *divisors(largest)}, reverse=True)[:FEW_CHOICES] if largest else []
