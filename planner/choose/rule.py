"""What a rule of a legal plan is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from planner.plan import Plan, PlanGrid
from profiles.cluster import Cluster
from profiles.workload import TrainingJob


@dataclass(frozen=True, slots=True)
class Rule:
    """`holds` answers for every plan of a grid; `sentence` says what is wrong with one plan and what would be right."""

    name: str
    holds: Callable[[PlanGrid, TrainingJob, Cluster], Any]
    sentence: Callable[[Plan, TrainingJob, Cluster], str]
