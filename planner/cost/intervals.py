"""Error bars: where measured step times lay that were predicted like this one."""

from dataclasses import dataclass
from typing import Any

from profiles.cluster import Cluster
from profiles.residuals import Residuals, shipped_residuals
from profiles.workload import TrainingJob


@dataclass(frozen=True, slots=True)
class Interval:
    """Seconds between which the step is expected to lie, with a share `level_fraction` of runs inside."""

    low_seconds: Any
    high_seconds: Any
    level_fraction: float
    basis: str
    """Which runs the interval rests on, in words."""


def interval(step_seconds: Any, job: TrainingJob, cluster: Cluster, residuals: Residuals | None = None) -> Interval:
    """The interval around a predicted step: its quantiles of measured over predicted, times the prediction.

    Empirical quantiles of residuals carry over to new runs like those scored, without assuming their
    distribution [Vovk 2005, Algorithmic Learning in a Random World, section 4.1, split conformal prediction].
    They lie off centre where predictions are biased.
    """
    record = residuals or shipped_residuals()
    sparse = getattr(job.model, "moe", None) is not None
    spread, name = record.spread(cluster.accelerator.name, sparse=sparse)
    where = "any accelerator, none of them this one" if name == "pool" else name
    kind = "mixture-of-experts" if sparse else "dense transformer"
    return Interval(
        low_seconds=step_seconds * spread.low_ratio,
        high_seconds=step_seconds * spread.high_ratio,
        level_fraction=record.level_fraction,
        basis=f"{spread.num_runs} published runs of {kind} models on {where}, from {spread.num_sources} sources",
    )
