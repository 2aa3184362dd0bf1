"""Link calibration records: collectives inside nodes and between them, and the pools by class."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks import tables
from benchmarks.kernel_records import AIC, DATE, HERE, VIDUR
from benchmarks.library_links import exchange_curves, message_curves
from benchmarks.tables import Table
from planner.cost.collectives import message_seconds
from profiles import catalog
from profiles.calibration import CollectiveCurve, CollectiveOp, Fit, LinkCurves
from profiles.cluster import Cluster, LinkClass, Tier
from profiles.units import GIGA, MIB
from validate.calibration.fit import Origin, fit_collective, fit_outer_tier

COLLECTIVES: tuple[CollectiveOp, ...] = get_args(CollectiveOp)
RINGS: tuple[CollectiveOp, ...] = ("all_gather", "reduce_scatter", "all_to_all")
PUBLISHED = HERE / "published_collectives.csv"
NODE_DEVICES = 8
LARGE_BYTES, LARGE_WEIGHT = 64 * MIB, 3.0
"""Gradients and parameters cross networks in messages this large; the tables hold few of them."""


@dataclass(frozen=True, slots=True)
class MeasuredLink:
    """A kind of link in the tables. `gb_per_second` is one direction, a device's share, on the machines measured."""

    name: str
    links: tuple[str, ...]
    link_class: LinkClass
    gb_per_second: float
    gpus: tuple[str, ...]
    """Devices of the rows that count, as the tables write them; for a network those of its many-node rows."""
    reduces: bool = False

    @property
    def bytes_per_second(self) -> float:
        """The rate in SI."""
        return self.gb_per_second * GIGA


NVLINK_4 = MeasuredLink("nvlink-4", ("nvlink-4",), "scale_up", 450.0, ("h100_sxm",), reduces=True)
INNER = (
    MeasuredLink("nvlink-3", ("nvlink-3",), "scale_up", 300.0, ("a100_sxm",)),
    NVLINK_4,
    MeasuredLink("nvlink-5", ("nvlink-5",), "scale_up", 900.0, ("b200_sxm", "gb200", "gb300"), reduces=True),
    MeasuredLink("pcie-4", ("pcie-4",), "pcie", 31.5, ("l40s",)),
    MeasuredLink("pcie-5", ("pcie-5",), "pcie", 63.0, ("rtx_pro_6000_server",)),
)
INFINIBAND = tuple(f"infiniband-{speed}" for speed in ("edr", "hdr", "ndr", "xdr"))
NETWORKS = (
    MeasuredLink("infiniband", (*INFINIBAND, "roce"), "network", 50.0, ()),
    MeasuredLink("efa", ("efa",), "network", 50.0, ("b200_sxm",)),
    MeasuredLink("tcpx", ("tcpx",), "network", 25.0, ("h100_sxm",)),
)
"""RoCE runs on the adapters of InfiniBand. Nodes of the networks hold eight devices on NVLink 4 or 5."""


@dataclass(frozen=True, slots=True)
class Case:
    """Measured times of one collective, and the cluster they were measured on."""

    cluster: Cluster
    sizes: NDArray[np.float64]
    num_bytes: NDArray[np.float64]
    seconds: NDArray[np.float64]

    def errors(self, collective: CollectiveOp, curve: CollectiveCurve) -> NDArray[np.float64]:
        """|predicted / measured - 1| with `curve` on the outermost tier."""
        outer = self.cluster.tiers[-1]
        curves = outer.curves.model_copy(update={"collectives": {collective: curve}})
        tiers = (*self.cluster.tiers[:-1], outer.model_copy(update={"curves": curves}))
        cluster = self.cluster.model_copy(update={"tiers": tiers})
        predicted = message_seconds(collective, self.num_bytes, self.sizes, 1.0, cluster)
        return np.abs(predicted / self.seconds - 1.0)


def with_more(record: LinkCurves, libraries: Mapping[str, Mapping[CollectiveOp, CollectiveCurve]]) -> LinkCurves:
    """`record` with the curves of more libraries."""
    merged = {name: {**record.libraries.get(name, {}), **libraries.get(name, {})}
              for name in (*record.libraries, *libraries)}  # fmt: skip
    return record.model_copy(update={"libraries": merged})


class Links:
    """Link curves of every kind of link in the tables, and the pool of each class."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = tables.read_table(folder / "collectives.csv.gz")
        self.published = tables.read_table(PUBLISHED)
        self.published_curves = tomllib.loads((HERE / "published_curves.toml").read_text(encoding="utf-8"))
        self.cases: dict[tuple[str, CollectiveOp], Case] = {}

    def records(self) -> list[LinkCurves]:
        """Records inside nodes, then between nodes, then pools."""
        inner = [self._inner(link) for link in INNER]
        inside = next(curves for curves in inner if curves.name == NVLINK_4.name)
        outer = [self._network(link, inside) for link in NETWORKS]
        classes: tuple[LinkClass, ...] = ("scale_up", "pcie")
        pools = [
            self._pool(link_class, [curves for curves in inner if curves.link_class == link_class])
            for link_class in classes
        ]
        pools = [*pools, self._network_pool(outer[0])]
        return self._with_libraries([*inner, *outer], pools)

    def _with_libraries(self, measured: list[LinkCurves], pools: list[LinkCurves]) -> list[LinkCurves]:
        """The records with the curves of other implementations; links that only these were measured on get the
        pool's curves beside them."""
        found = message_curves(self.folder)
        by_class = {pool.link_class: pool for pool in pools}
        records = [
            record.model_copy(update={"libraries": found.pop(record.name, {})}) if record.name in found else record
            for record in measured
        ]
        for link, libraries in found.items():
            kind = catalog.link(link)
            if not any(link in record.links for record in measured):
                pool = by_class[kind.link_class]
                update = {"name": link, "links": (link,), "libraries": libraries}
                records.append(pool.model_copy(update=update))
        for link, libraries in exchange_curves(self.folder).items():
            records = [with_more(record, libraries) if link in record.links else record for record in records]
        return [*records, *pools]

    def _inner(self, link: MeasuredLink) -> LinkCurves:
        curves: dict[CollectiveOp, CollectiveCurve] = {}
        for collective in COLLECTIVES:
            parts = [tables.collective_rows(self.table, gpu, collective) for gpu in link.gpus]
            part = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
            if not len(part["op"]):
                continue
            seconds = tables.seconds(part)
            curves[collective] = fit_collective(
                collective, part["num_gpus"], part["bytes"], seconds, link.bytes_per_second,
                Origin(" and ".join(link.gpus), DATE, VIDUR if collective == "send_recv" else AIC),
                in_network_reduction=link.reduces and collective == "all_reduce",
            )  # fmt: skip
            cluster = _cluster((_tier(link, NODE_DEVICES, _placeholder(link, curves)),))
            self.cases[link.name, collective] = Case(cluster, part["num_gpus"], part["bytes"], seconds)
        return LinkCurves(name=link.name, links=link.links, link_class=link.link_class, source=AIC, collectives=curves)

    def _network(self, link: MeasuredLink, inside: LinkCurves) -> LinkCurves:
        """All-reduce over whole nodes, above the curves inside a node; point to point as over InfiniBand.

        The other collectives carry the all-reduce over, at no more than the share of the adapters that it reaches
        over the most nodes: only an all-reduce can run as a tree, in which two nodes exchange each byte once.
        """
        case, sources = self._network_case(link, inside)
        self.cases[link.name, "all_reduce"] = case
        if link.name in self.published_curves["network"]:
            all_reduce = self._published_curve(link, case)
        else:
            origin = Origin(f"nodes of eight devices over {link.name}", DATE, sources)
            weights = np.where(case.num_bytes >= LARGE_BYTES, LARGE_WEIGHT, 1.0)
            fitted = fit_outer_tier(
                "all_reduce", case.cluster, case.sizes, case.num_bytes, case.seconds, origin, weights=weights
            )
            all_reduce = _extended(fitted)
        share = min(1.0, *all_reduce.bus_fraction)
        ring = all_reduce.model_copy(
            update={
                "bus_fraction": tuple(min(fraction, share) for fraction in all_reduce.bus_fraction),
                "reduction_gain": (),
                "is_carried_over": True,
                "fit": _carried_over(all_reduce.fit),
            }
        )
        curves: dict[CollectiveOp, CollectiveCurve] = {"all_reduce": all_reduce, **dict.fromkeys(RINGS, ring)}
        curves["send_recv"] = self._network_send_recv()
        return LinkCurves(
            name=link.name, links=link.links, link_class="network", source=all_reduce.fit.source, collectives=curves
        )

    def _network_case(self, link: MeasuredLink, inside: LinkCurves) -> tuple[Case, str]:
        rows = self._network_rows(link)
        node = _tier(NVLINK_4, NODE_DEVICES, inside)
        cluster = _cluster((node, _tier(link, int(rows["num_gpus"].max()), inside)))
        sources = "; ".join(str(source) for source in np.unique(rows["source"]))
        return Case(cluster, rows["num_gpus"], rows["bytes"], tables.seconds(rows)), sources

    def _published_curve(self, link: MeasuredLink, case: Case) -> CollectiveCurve:
        """A curve that others fitted to step times; the published all-reduces give its held-out error."""
        values = dict(self.published_curves["network"][link.name])
        origin = {name: values.pop(name) for name in ("machine", "date", "num_points", "source")}
        gain = self.published_curves["reduction_gain"]["network"]
        curve = CollectiveCurve(**values, reduction_gain=(gain,) * len(values["num_ranks"]), fit=Fit(**origin))
        return curve.model_copy(update={"fit": _with_errors(curve.fit, [case.errors("all_reduce", curve)])})

    def _network_pool(self, infiniband: LinkCurves) -> LinkCurves:
        """InfiniBand's curves for networks that nobody measured; their error is of the other networks' all-reduces."""
        all_reduce = infiniband.collectives["all_reduce"]
        others = [
            case
            for (name, collective), case in self.cases.items()
            if collective == "all_reduce" and name in ("efa", "tcpx")
        ]
        errors = [case.errors("all_reduce", all_reduce) for case in others]
        pooled = all_reduce.model_copy(update={"fit": _with_errors(all_reduce.fit, errors)})
        return infiniband.model_copy(
            update={
                "name": "pool-network",
                "links": (),
                "notes": "the curves of InfiniBand; held-out error of all_reduce: on EFA and TCPX",
                "collectives": infiniband.collectives | {"all_reduce": pooled},
            }
        )

    def _network_rows(self, link: MeasuredLink) -> Table:
        """All-reduces over several nodes: the published ones, and those of the tables by nccl-tests or its like."""
        published = tables.rows(self.published, self.published["link"] == link.name)
        chosen = (
            (self.table["num_nodes"] > 1)
            & np.isin(self.table["gpu"], link.gpus)
            & (self.table["op"] == "all_reduce")
            & (self.table["impl"] != "torch.distributed nccl")
        )
        measured = tables.rows(self.table, chosen)
        columns = ("num_gpus", "bytes", "latency_us", "source")
        return {column: np.concatenate([published[column], measured[column]]) for column in columns}

    def _network_send_recv(self) -> CollectiveCurve:
        chosen = (self.table["gpu"] == "h100_sxm") & (self.table["op"] == "send_recv") & (self.table["num_nodes"] == 2)
        part = tables.rows(self.table, chosen)
        origin = Origin("two H100 nodes, 400 Gb/s a device", DATE, VIDUR)
        seconds = tables.seconds(part)
        rate = NETWORKS[0].bytes_per_second
        return fit_collective("send_recv", part["num_gpus"], part["bytes"], seconds, rate, origin)

    def _pool(self, link_class: LinkClass, records: Sequence[LinkCurves]) -> LinkCurves:
        curves: dict[CollectiveOp, CollectiveCurve] = {}
        for collective in COLLECTIVES:
            measured = {
                record.name: record.collectives[collective] for record in records if collective in record.collectives
            }
            if measured:
                curves[collective] = self._mean(collective, measured)
        if link_class == "scale_up":
            curves["all_reduce"] = self._mean("all_reduce", {record.name: _ring(record) for record in records})
            gain = self.published_curves["reduction_gain"]["scale_up"]
            curves["all_reduce"] = curves["all_reduce"].model_copy(update={"reduction_gain": tuple(gain)})
        return LinkCurves(
            name=f"pool-{link_class}",
            link_class=link_class,
            source="geometric mean of " + ", ".join(record.name for record in records),
            collectives=curves,
        )

    def _mean(self, collective: CollectiveOp, curves: Mapping[str, CollectiveCurve]) -> CollectiveCurve:
        """The geometric mean of `curves`; its error is of each link under the mean of the others."""
        errors = []
        for name in curves:
            others = [curve for other, curve in curves.items() if other != name]
            if others and (name, collective) in self.cases:
                errors.append(self.cases[name, collective].errors(collective, _mean_curve(others)))
        mean = _mean_curve(list(curves.values()))
        update = {
            "machine": "geometric mean of " + ", ".join(curves),
            "num_points": sum(curve.fit.num_points for curve in curves.values()),
            "source": "; ".join(dict.fromkeys(curve.fit.source for curve in curves.values())),
        }
        return mean.model_copy(update={"fit": _with_errors(mean.fit.model_copy(update=update), errors)})


def _with_errors(fit: Fit, errors: Sequence[NDArray[np.float64]]) -> Fit:
    """`fit` with the mean over tables of their median and 90th percentile; none where there is no table."""
    update = {
        "held_out_median_error_fraction": float(np.mean([np.median(one) for one in errors])) if errors else None,
        "held_out_p90_error_fraction": float(np.mean([np.quantile(one, 0.9) for one in errors])) if errors else None,
    }
    return fit.model_copy(update=update)


def _extended(curve: CollectiveCurve) -> CollectiveCurve:
    """A curve measured over two nodes only, continued to more at the same use of the adapters.

    A tree sends 2 (k - 1) / k of the bytes between k nodes where bus bandwidth counts 2 (n - 1) / n, nearly 2.
    """
    if curve.num_ranks != (2,):
        return curve
    nodes = (2, 4, 8, 16)
    used = curve.bus_fraction[0] / 2.0
    return curve.model_copy(
        update={
            "num_ranks": nodes,
            "latency_seconds": curve.latency_seconds * len(nodes),
            "bus_fraction": tuple(used * count / (count - 1) for count in nodes),
            "exponent": curve.exponent * len(nodes),
        }
    )


def _carried_over(fit: Fit) -> Fit:
    unknown = dict.fromkeys(("held_out_median_error_fraction", "held_out_p90_error_fraction"))
    return fit.model_copy(update={**unknown, "source": "carried over from all_reduce: " + fit.source})


def _placeholder(link: MeasuredLink, curves: Mapping[CollectiveOp, CollectiveCurve]) -> LinkCurves:
    return LinkCurves(name=link.name, link_class=link.link_class, source="measured", collectives=dict(curves))


def _tier(link: MeasuredLink, num_devices: int, curves: LinkCurves) -> Tier:
    return Tier(
        name=link.name, link=link.name, link_class=link.link_class, topology="switch", num_devices=num_devices,
        bytes_per_second=link.bytes_per_second, in_network_reduction=link.reduces, curves=curves,
    )  # fmt: skip


def _cluster(tiers: tuple[Tier, ...]) -> Cluster:
    """A cluster to price messages on; its accelerator does not matter to them."""
    return Cluster(
        name="measured", source="measured", accelerator=catalog.accelerator("h100-sxm"), tiers=tiers,
        num_devices=tiers[-1].num_devices, kernels=catalog.kernel_curves("h100-sxm"),
    )  # fmt: skip


def _ring(record: LinkCurves) -> CollectiveCurve:
    """The all-reduce of `record` without its switches: no faster than an all-gather, as `planner.cost.collectives`."""
    all_reduce, ring = record.collectives["all_reduce"], record.collectives["all_gather"]
    if not all_reduce.in_network_reduction:
        return all_reduce
    fraction = np.minimum(all_reduce.bus_fraction, ring.bus_fraction)
    return all_reduce.model_copy(update={"bus_fraction": tuple(map(float, fraction)), "in_network_reduction": False})


def _mean_curve(curves: Sequence[CollectiveCurve]) -> CollectiveCurve:
    """Geometric mean at every group size at which one of the curves was measured, each read off its table there."""
    ranks = sorted({rank for curve in curves for rank in curve.num_ranks})

    def mean(column: str) -> tuple[float, ...]:
        values = [np.interp(np.log2(ranks), np.log2(curve.num_ranks), getattr(curve, column)) for curve in curves]
        return tuple(float(value) for value in np.exp(np.log(np.stack(values)).mean(axis=0)))

    return CollectiveCurve(
        num_ranks=tuple(ranks),
        latency_seconds=mean("latency_seconds"),
        bus_fraction=mean("bus_fraction"),
        exponent=mean("exponent"),
        in_network_reduction=all(curve.in_network_reduction for curve in curves),
        fit=curves[0].fit,
    )
