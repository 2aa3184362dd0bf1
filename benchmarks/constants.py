"""The constants that whole steps may set, each with a prior from elsewhere and the change it makes to a setting.

Everything else comes from benchmarks of kernels and links, or from a source's own words. A constant has one slot
for each group of runs that share its value; the runs of a slot pull it from its prior as far as they tell.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import log

import numpy as np

from profiles.calibration import Fit, Sustained
from profiles.cluster import Cluster
from validate.runs.resolve import Setting

FACTORS = np.exp(np.array([-0.7, -0.35, 0.0, 0.35, 0.7]))
"""Multiples of the shipped value at which a constant's effect on a step is tabulated."""


@dataclass(frozen=True, slots=True)
class Constant:
    """One constant: which value a setting has, where it is filed, and how a multiple of it is put in place."""

    name: str
    slot: Callable[[Setting], Hashable | None]
    """Group of the runs that share the value; None for settings that do not have the constant."""
    value: Callable[[Setting], float]
    """The shipped value."""
    scaled: Callable[[Setting, float], Setting]
    prior: Callable[[Setting], float]
    """What one would take without any step time."""
    prior_spread: float
    """Standard deviation of the natural logarithm about the prior."""
    prior_source: str
    pooled: bool = False
    """Slots are drawn around a value they share, which stands in for a slot without runs."""


def _host(setting: Setting) -> str | None:
    return "eager" if setting.stack.host_seconds_per_launch > 0.0 else None


def _scale_host(setting: Setting, factor: float) -> Setting:
    seconds = setting.stack.host_seconds_per_launch * factor
    return replace(setting, stack=setting.stack.model_copy(update={"host_seconds_per_launch": seconds}))


def _format(setting: Setting) -> str:
    return {"bf16": "16-bit", "fp16": "16-bit", "fp32": "fp32"}.get(setting.job.precision, "8-bit or less")


def _scale_kernels(setting: Setting, factor: float) -> Setting:
    return replace(setting, cluster=_sustaining(setting.cluster, setting.job.precision, factor))


@lru_cache(maxsize=4096)
def _sustaining_of(key: int, dtype: str, factor: float) -> Cluster:
    return _scaled_cluster(_clusters[key], dtype, factor)


_clusters: dict[int, Cluster] = {}
"""Clusters by identity: their records are slow to hash, and a table's settings share them."""


def _sustaining(cluster: Cluster, dtype: str, factor: float) -> Cluster:
    return _sustaining_of(_known(cluster), dtype, factor)


def _known(cluster: Cluster) -> int:
    _clusters.setdefault(id(cluster), cluster)
    return id(cluster)


def _scaled_cluster(cluster: Cluster, dtype: str, factor: float) -> Cluster:
    """The cluster whose kernels keep `factor` times as much of their benchmarked rates in `dtype` steps."""
    kernels = cluster.kernels
    now = kernels.sustained or {dtype: _unsustained()}
    sustained = {name: _times(one, factor) for name, one in now.items()}
    return cluster.model_copy(update={"kernels": kernels.model_copy(update={"sustained": sustained})})


def _times(one: Sustained, factor: float) -> Sustained:
    attention = one.attention_fraction * factor if one.attention_fraction else None
    return one.model_copy(update={"fraction": one.fraction * factor, "attention_fraction": attention})


def _unsustained() -> Sustained:
    return Sustained(fraction=1.0, fit=Fit(machine="", date="", num_points=0, source="nobody compared it with steps"))


def _network(setting: Setting) -> str | None:
    outer = setting.cluster.tiers[-1]
    return "network" if outer.link_class == "network" else None


@lru_cache(maxsize=4096)
def _networked(key: int, factor: float) -> Cluster:
    cluster = _clusters[key]
    outer = cluster.tiers[-1]
    faster = outer.model_copy(update={"bytes_per_second": outer.bytes_per_second * factor})
    return cluster.model_copy(update={"tiers": (*cluster.tiers[:-1], faster)})


def _scale_network(setting: Setting, factor: float) -> Setting:
    return replace(setting, cluster=_networked(_known(setting.cluster), factor))


def _overlapped(setting: Setting) -> str | None:
    return "tp" if 0.0 < setting.stack.tp_exposed_fraction < 1.0 and setting.plan.tp > 1 else None


def _scale_exposed(setting: Setting, factor: float) -> Setting:
    share = min(1.0, setting.stack.tp_exposed_fraction * factor)
    return replace(setting, stack=setting.stack.model_copy(update={"tp_exposed_fraction": share}))


def _old_attention(setting: Setting) -> Hashable | None:
    return setting.cluster.accelerator.name if setting.stack.attention_kernel == "flash-1" else None


@lru_cache(maxsize=4096)
def _attending(key: int, factor: float) -> Cluster:
    kernels = _clusters[key].kernels
    curve = kernels.attention_curve("flash-1")
    curve = curve.model_copy(update={"compute_efficiency_fraction": curve.compute_efficiency_fraction * factor})
    attention = {**kernels.attention, "flash-1": curve}
    return _clusters[key].model_copy(update={"kernels": kernels.model_copy(update={"attention": attention})})


def _scale_attention(setting: Setting, factor: float) -> Setting:
    return replace(setting, cluster=_attending(_known(setting.cluster), factor))


def _flash(setting: Setting, kernel: str) -> float:
    return setting.cluster.kernels.attention_curve(kernel).compute_efficiency_fraction


CONSTANTS = (
    Constant(
        "host seconds per launch of eager stacks", _host, lambda one: one.stack.host_seconds_per_launch, _scale_host,
        prior=lambda one: 40e-6, prior_spread=0.5,
        prior_source="about two kernels an operation at 10 to 40 us each from Python",
    ),
    Constant(
        "share of benchmarked compute rates that a step keeps",
        lambda one: (one.cluster.accelerator.name, _format(one)),
        lambda one: one.cluster.kernels.sustained_fraction(one.job.precision), _scale_kernels,
        prior=lambda one: 0.9, prior_spread=0.1,
        prior_source="short benchmarks run at clocks that a power limit does not let a step keep", pooled=True,
    ),
    Constant(
        "share of a network adapter's rate", _network, lambda one: 1.0, _scale_network,
        prior=lambda one: 1.0, prior_spread=0.1, prior_source="curves of nccl-tests, where they were run",
    ),
    Constant(
        "exposed share of overlapped tensor-parallel communication", _overlapped,
        lambda one: one.stack.tp_exposed_fraction, _scale_exposed,
        prior=lambda one: 0.5, prior_spread=0.5, prior_source="between all of it and none",
    ),
    Constant(
        "efficiency of the first flash attention kernels", _old_attention, lambda one: _flash(one, "flash-1"),
        _scale_attention, prior=lambda one: 0.55 * _flash(one, "flash-2"), prior_spread=0.4,
        prior_source="Dao 2023, arXiv:2307.08691, section 1: 25-40 % against 50-73 % of peak",
    ),
)  # fmt: skip
"""What is fitted on step times, and nothing else is."""


def offset(constant: Constant, setting: Setting, level: float) -> float:
    """Logarithm of the multiple of the shipped value that puts `level` (a logarithm) in place."""
    return level - log(constant.value(setting))
