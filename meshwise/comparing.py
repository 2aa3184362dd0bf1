"""Two things side by side: two plans with their jobs, or two clusters' figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshwise import asking, jobfile
from meshwise.asking import Asked
from meshwise.jobfile import JobTable
from planner.cost.estimate import Estimate
from planner.plan import PLAN_FIELDS
from profiles import catalog
from profiles.cluster import Cluster
from profiles.files import read_table
from profiles.mixed import AnyCluster


@dataclass(frozen=True, slots=True)
class Side:
    """One of two plans."""

    name: str
    asked: Asked
    answer: Estimate


def side(name: str, file: Path | None, job_flags: Mapping[str, Any], split_flags: Mapping[str, Any]) -> Side:
    """The plan that a file and flags describe, priced; without any split the best plan by estimate.

    Raises ValueError for what is missing, unknown or illegal, and when no plan fits.
    """
    read = jobfile.read(file, job_flags, split_flags)
    if read.split is not None:
        asked = asking.plan_question(file, job_flags, split_flags)
        return Side(name, asked, asking.estimate(asked))
    from planner.choose.mixed import search_any

    question = jobfile.question(read.job)
    found = search_any(question.job, question.cluster, question.stack, top=1).candidates
    if not found:
        raise ValueError(f"{name}: no plan of {question.job.model.name} fits; see `meshwise plan`")
    return Side(name, Asked(question, found[0].plan), found[0].estimate)


def is_job(text: str) -> bool:
    """Whether `text` names a job or plan file, not a cluster."""
    path = Path(text)
    return path.suffix.lower() in (".toml", ".json") and bool({"job", "split"} & set(read_table(path)))


def differing_fields(first: Side, second: Side) -> list[tuple[str, Any, Any]]:
    """(field, value here, value there) of the jobs' and the plans' fields that differ."""
    jobs = [one.asked.question.table for one in (first, second)]
    plans = [one.asked.plan for one in (first, second)]
    rows = [(name, *(getattr(table, name) for table in jobs)) for name in JobTable.model_fields]
    rows += [(name, *(_shown(getattr(plan, name)) for plan in plans)) for name in PLAN_FIELDS]
    return [(name, here, there) for name, here, there in rows if here != there]


def _shown(value: Any) -> Any:
    return value.name.lower() if hasattr(value, "name") else value


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a cluster, in SI units."""

    name: str
    here: float | None
    there: float | None

    @property
    def ratio(self) -> float | None:
        """There over here."""
        return self.there / self.here if self.here and self.there is not None else None


def cluster_figures(first: AnyCluster, second: AnyCluster) -> list[Figure]:
    """What two clusters differ in, and what they share: device, memory and each tier of links."""
    tables = [_figures(cluster) for cluster in (first, second)]
    names = dict.fromkeys(name for table in tables for name in table)
    return [Figure(name, tables[0].get(name), tables[1].get(name)) for name in names]


def _figures(cluster: AnyCluster) -> dict[str, float]:
    """Figures of a cluster by name; on several groups of nodes those of each group, and of the link that joins them."""
    if isinstance(cluster, Cluster):
        return _plain_figures(cluster)
    found = {"num_devices": float(cluster.num_devices)}
    for group in cluster.groups:
        found |= {f"{group.name}: {name}": value for name, value in _plain_figures(group.cluster).items()}
    if cluster.join is not None:
        found["join_usable_bytes_per_second"] = cluster.join.tier.usable_bytes_per_second
        if cluster.join.total_bytes_per_second is not None:
            found["join_total_bytes_per_second"] = cluster.join.total_bytes_per_second
    return found


def _plain_figures(cluster: Cluster) -> dict[str, float]:
    device = cluster.accelerator
    found = {f"peak_{dtype}_flops_per_second": rate for dtype, rate in device.peak_flops_per_second.items()}
    found |= {
        "memory_bytes": device.memory_bytes,
        "memory_bytes_per_second": device.memory_bytes_per_second,
        "num_devices": float(cluster.num_devices),
        "devices_per_node": float(cluster.devices_per_node),
    }
    if device.power_watts:
        found["power_watts"] = device.power_watts
    for place, tier in enumerate(cluster.tiers):
        label = f"tier{place}"
        found[f"{label}_num_devices"] = float(tier.num_devices)
        found[f"{label}_usable_bytes_per_second"] = tier.usable_bytes_per_second
    return found


def clusters(names: Sequence[str], devices: int | None) -> list[AnyCluster]:
    """The clusters called `names`, of `devices` each (default: one node)."""
    return [catalog.any_cluster(name, devices) for name in names]
