"""Every record and fitted curve that an answer rests on, as the sources of a report."""

from collections.abc import Iterable, Mapping
from typing import Any

from meshwise.jobfile import Question
from meshwise.jsonout import sources as records_of
from meshwise.report.document import Source
from profiles.calibration import Fit
from profiles.cluster import Cluster
from profiles.engine import EngineRecord
from profiles.mixed import AnyCluster, MixedCluster, groups_of
from profiles.record import Sourced
from profiles.residuals import shipped_residuals


def training_sources(question: Question) -> tuple[Source, ...]:
    """Records of the model, the cluster and the software, the curves behind every price, and the error bars."""
    records = (
        Source(one["kind"], one["name"], one["source"], tuple(one["unverified"])) for one in records_of(question)
    )
    return _distinct([*records, *curves(question.cluster), *error_bars()])


def serving_sources(models: Iterable[Sourced], engines: Iterable[EngineRecord], cluster: Cluster) -> tuple[Source, ...]:
    """The same of served models: the engines with what their constants were fitted on."""
    found = [record("model", one) for one in models]
    found += [engine_source(one) for one in engines]
    found += [record("cluster", cluster), record("accelerator", cluster.accelerator)]
    return _distinct([*found, *curves(cluster)])


def record(kind: str, one: Sourced) -> Source:
    """A record of the catalog."""
    return Source(kind, one.name, one.source, one.unverified)


def engine_source(engine: EngineRecord) -> Source:
    """An engine's record; its held-out error is that of the time per output token."""
    fit = engine.fit
    if fit is None:
        return record("engine", engine)
    return Source("engine", engine.name, engine.source, engine.unverified, fit.num_rows,
                  fit.held_out_tpot_error_fraction, fit.date)  # fmt: skip


def curves(cluster: AnyCluster) -> list[Source]:
    """Fitted curves of the kernels and links of a cluster."""
    found: list[Source] = []
    for _, group in groups_of(cluster):
        found += _fits(group.kernels.name, group.kernels.fits())
        for tier in group.tiers:
            found += _fits(tier.curves.name, tier.curves.fits())
    if isinstance(cluster, MixedCluster) and cluster.join is not None:
        found += _fits(cluster.join.tier.curves.name, cluster.join.tier.curves.fits())
    return found


def _fits(owner: str, fits: Mapping[str, Fit]) -> list[Source]:
    return [
        Source("fitted curve", f"{owner}: {name.replace('_', ' ')}", f"{fit.source}; measured on {fit.machine}", (),
               fit.num_points, fit.held_out_median_error_fraction, fit.date)
        for name, fit in fits.items()
    ]  # fmt: skip


def error_bars() -> list[Source]:
    """What the error bars of training steps and memory rest on."""
    residuals = shipped_residuals()
    groups: list[tuple[str, Any]] = [("dense models", residuals.dense), ("mixtures of experts", residuals.sparse)]
    return [
        Source("error bars", f"steps of {name}", residuals.source, (), group["new"].num_runs, None, residuals.date)
        for name, group in groups
    ]


def _distinct(found: list[Source]) -> tuple[Source, ...]:
    """Each source once, in the order in which they come."""
    return tuple(dict.fromkeys(found))
