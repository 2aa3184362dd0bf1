"""Factors on the prices of a cluster: each multiplies the time of one cause, and leaves all others as they were.

A run says how long it took; which price was wrong is found among these few factors (`recalibrate`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args

from profiles import catalog
from profiles.calibration import CollectiveCurve, CollectiveOp, KernelCurves, LinkCurves, Sustained
from profiles.cluster import ClusterSpec
from validate.calibration.fit import Origin

KERNEL_SPREADS: Mapping[str, float] = {
    "compute": 0.15, "attention": 0.2, "memory": 0.25, "updates": 0.25, "launches": 0.3,
}  # fmt: skip
LINK_SPREADS: Mapping[str, float] = {"latency": 0.4, "transfer": 0.25}
"""What a factor multiplies -> how far it is believed to be from 1 before any run is seen, in log units."""
HOST_LAUNCH_SPREAD = 1.0
"""Of launches where the host computes: kernels that run alone say little of what it does around each in a step."""


@dataclass(frozen=True, slots=True)
class Scale:
    """One factor: on a kind of kernel, or on the latency or the transfers of a link."""

    cause: str
    link: str = ""
    collective: str = ""
    """The only collective it is on; "": all of the link."""
    log_spread: float = field(default=0.0, compare=False)
    """One standard deviation of what is believed before any run is seen."""

    @property
    def name(self) -> str:
        """As people read it."""
        words = (self.link, self.collective.replace("_", "-"), self.cause)
        return " ".join(word for word in words if word)


def scales_of(spec: ClusterSpec, num_devices: int) -> tuple[Scale, ...]:
    """The factors that runs on `num_devices` can tell of.

    On CPUs every collective has its own: what a framework does around a message there, and how long ranks wait for
    each other's threads, differs by collective.
    """
    cluster = catalog.expand(spec, num_devices)
    is_host = cluster.accelerator.kind == "cpu"
    spreads = {**KERNEL_SPREADS, "launches": HOST_LAUNCH_SPREAD} if is_host else KERNEL_SPREADS
    links = dict.fromkeys(tier.link for tier in cluster.tiers) if num_devices > 1 else ()
    collectives = get_args(CollectiveOp) if is_host else ("",)
    return (
        *(Scale(cause, log_spread=spread) for cause, spread in spreads.items()),
        *(
            Scale(cause, link, op, spread)
            for link in links for op in collectives for cause, spread in LINK_SPREADS.items()
        ),
    )  # fmt: skip


def scaled(
    spec: ClusterSpec, factors: Mapping[Scale, float], num_devices: int, dtypes: Iterable[str], origin: Origin
) -> ClusterSpec:
    """`spec` with the time of every cause multiplied by its factor; `origin` says who found them.

    The links are those of `num_devices` devices. Only matrix products in `dtypes` (and those that were scaled before)
    are touched.
    """
    cluster = catalog.expand(spec, num_devices)
    kernels = {scale.cause: factor for scale, factor in factors.items() if not scale.link}
    if kernels:
        spec = spec.model_copy(update={"kernels": _kernels(cluster.kernels, kernels, dtypes, origin)})
    for link in dict.fromkeys(scale.link for scale in factors if scale.link):
        found = {(scale.cause, scale.collective): by for scale, by in factors.items() if scale.link == link}
        whole = next(tier.curves for tier in cluster.tiers if tier.link == link)
        spec = _with_link(spec, link, whole, partial(_link, factors=found, origin=origin))
    return spec


def _kernels(curves: KernelCurves, factors: Mapping[str, float], dtypes: Iterable[str], origin: Origin) -> KernelCurves:
    compute, launches = factors.get("compute", 1.0), factors.get("launches", 1.0)
    memory, updates = factors.get("memory", 1.0), factors.get("updates", 1.0)
    later = {"launch_seconds": lambda curve: curve.launch_seconds * launches}
    elementwise = curves.elementwise
    in_place = elementwise.in_place_efficiency_fraction or elementwise.memory_efficiency_fraction
    return curves.model_copy(
        update={
            "sustained": _sustained(curves, compute, factors.get("attention", 1.0), dtypes, origin),
            "gemm": {dtype: _changed(curve, later) for dtype, curve in curves.gemm.items()},
            "attention": {kernel: _changed(curve, later) for kernel, curve in curves.attention.items()},
            "elementwise": elementwise.model_copy(
                update={
                    "memory_efficiency_fraction": elementwise.memory_efficiency_fraction / memory,
                    "in_place_efficiency_fraction": in_place / updates,
                    "launch_seconds": elementwise.launch_seconds * launches,
                }
            ),
        }
    )


def _sustained(
    curves: KernelCurves, compute: float, attention: float, dtypes: Iterable[str], origin: Origin
) -> dict[str, Sustained]:
    """What steps keep of the compute rates, by dtype."""
    found = {}
    for dtype in dict.fromkeys((*curves.sustained, *dtypes)):
        fit = curves.gemm_curve(dtype).fit.model_copy(
            update={"machine": origin.machine, "date": origin.date, "source": origin.source, "num_points": 0,
                    "held_out_median_error_fraction": None, "held_out_p90_error_fraction": None}
        )  # fmt: skip
        found[dtype] = Sustained(
            fraction=curves.sustained_fraction(dtype) / compute,
            attention_fraction=curves.sustained_fraction(dtype, attention=True) / attention,
            fit=fit,
        )
    return found


def _with_link(
    spec: ClusterSpec, link: str, whole: LinkCurves, change: Callable[[LinkCurves], LinkCurves]
) -> ClusterSpec:
    """`spec` with the curves of `link` changed in the tier that states them, or else `whole`, changed, beside it."""
    if any(tier.link == link and tier.curves for tier in spec.tiers):
        tiers = tuple(
            tier.model_copy(update={"curves": change(tier.curves)}) if tier.link == link and tier.curves else tier
            for tier in spec.tiers
        )
        return spec.model_copy(update={"tiers": tiers})
    own = change(whole).model_copy(update={"name": f"{link}-measured", "links": (link,), "libraries": {}})
    others = tuple(curves for curves in spec.curves if link not in curves.links)
    return spec.model_copy(update={"curves": (*others, own)})


def _link(curves: LinkCurves, factors: Mapping[tuple[str, str], float], origin: Origin) -> LinkCurves:
    """`curves` by factors of (cause, collective), "" for all of them."""

    def change(op: CollectiveOp, curve: CollectiveCurve) -> CollectiveCurve:
        latency, transfer = (
            factors.get((cause, ""), 1.0) * factors.get((cause, op), 1.0) for cause in ("latency", "transfer")
        )
        return _changed(curve, {
            "latency_seconds": lambda one: tuple(seconds * latency for seconds in one.latency_seconds),
            "bus_fraction": lambda one: tuple(fraction / transfer for fraction in one.bus_fraction),
        })  # fmt: skip

    return curves.model_copy(
        update={
            "collectives": {op: change(op, curve) for op, curve in curves.collectives.items()},
            "source": f"{curves.source}; scaled by {origin.source}",
        }
    )


def _changed(record: Any, changes: Mapping[str, Callable[[Any], Any]]) -> Any:
    return record.model_copy(update={name: change(record) for name, change in changes.items()})


__all__ = ["Scale", "scaled", "scales_of"]
