"""Estimates of many runs: those that share job, cluster and stack are priced as one grid of plans."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

from planner.cost.estimate import Estimate, estimate
from planner.plan import PlanGrid
from validate.runs.resolve import Setting


def priced(settings: Sequence[Setting], on_priced: Callable[[int], None] | None = None) -> tuple[Estimate, ...]:
    """The estimate of every setting, in their order; `on_priced(how many)` is called after each grid."""
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, setting in enumerate(settings):
        # Clusters are compared by identity: the settings of a table share them, and their curves are slow to hash.
        groups[setting.job, id(setting.cluster), setting.stack].append(index)
    answers: dict[int, Estimate] = {}
    for rows in groups.values():
        first = settings[rows[0]]
        grid = PlanGrid.of([settings[row].plan for row in rows])
        found = estimate(grid, first.job, first.cluster, first.stack)
        answers |= {row: found.row(index) for index, row in enumerate(rows)}
        if on_priced is not None:
            on_priced(len(rows))
    return tuple(answers[index] for index in range(len(settings)))
