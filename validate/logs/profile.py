"""A profile from logs: a known cluster, with the curves that the logs measured in place of the catalog's."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from profiles import catalog
from profiles.calibration import CollectiveOp
from profiles.cluster import ClusterSpec
from profiles.files import check_writable, write_whole
from profiles.writer import to_toml
from validate.calibration.fit import Origin
from validate.logs.devices import without_maker
from validate.logs.kernels import FittedKernels, fit_kernels
from validate.logs.links import FittedGroup, fit_links
from validate.logs.message import MeasuredMessage
from validate.logs.nccl_tests import read_nccl_tests
from validate.logs.torch_trace import TorchTrace, read_traces

_LEAST_SIZES = 3
"""Fewer sizes of a message do not make a curve."""


@dataclass(frozen=True, slots=True)
class LogProfile:
    """What logs made of a cluster."""

    spec: ClusterSpec
    groups: tuple[FittedGroup, ...]
    skipped: dict[str, int]
    """Reason -> rows that were not used."""


def from_nccl_tests(
    paths: Sequence[Path], output: Path, *, cluster: str | None = None, overwrite: bool = False
) -> LogProfile:
    """Write `cluster` (None: the usual host of the devices in the logs) with the links that nccl-tests measured.

    Raises ValueError when a file cannot be read or used, the devices are not in the catalog, the groups do not fit
    the cluster, or `output` cannot be written.
    """
    check_writable(output, overwrite, (".toml",))
    log = read_nccl_tests(paths)
    base = catalog.cluster_spec(cluster or _usual_cluster(log.device_names))
    ops = ", ".join(dict.fromkeys(message.op for message in log.messages))
    names = ", ".join(path.name for path in paths)
    machine = " and ".join(log.device_names) or base.name
    origin = Origin(machine, date.today().isoformat(), f"nccl-tests ({ops}) in {names}")
    spec, groups = fit_links(log.messages, base, origin)
    spec = measured_spec(spec, origin, log.skipped.reasons)
    write_whole(output, to_toml(spec), overwrite)
    return LogProfile(spec, groups, log.skipped.reasons)


@dataclass(frozen=True, slots=True)
class TraceProfile:
    """What traces of a training run made of a cluster."""

    spec: ClusterSpec
    kernels: tuple[FittedKernels, ...]
    groups: tuple[FittedGroup, ...]
    skipped: dict[str, int]
    """Reason -> kernels and messages that were not used."""
    read_fraction: float
    """Share of the kernels' time whose shapes were read."""


def from_traces(
    paths: Sequence[Path], output: Path, *, cluster: str | None = None, overwrite: bool = False
) -> TraceProfile:
    """Write `cluster` (None: the usual host of the devices in the traces) with what PyTorch's profiler saw.

    Raises ValueError as `from_nccl_tests`.
    """
    check_writable(output, overwrite, (".toml",))
    trace = read_traces(paths)
    base = catalog.cluster_spec(cluster or _usual_cluster(trace.device_names))
    machine = " and ".join(trace.device_names) or base.name
    names = ", ".join(path.name for path in paths)
    origin = Origin(machine, date.today().isoformat(), f"PyTorch traces {names}")
    curves, kernels = fit_kernels(trace.kernels, catalog.expand(base), origin)
    spec = base.model_copy(update={"kernels": curves}) if kernels else base
    spec, groups = fit_links(shortest(trace, catalog.devices_per_host(base)), spec, origin)
    if not kernels and not groups:
        why = "; ".join(trace.skipped.reasons) or "too few shapes and sizes"
        raise ValueError(f"{names}: no price can be fitted: {why}")
    spec = measured_spec(spec, origin, trace.skipped.reasons)
    write_whole(output, to_toml(spec), overwrite)
    share = trace.read_seconds / trace.kernel_seconds if trace.kernel_seconds else 0.0
    return TraceProfile(spec, tuple(kernels), groups, trace.skipped.reasons, share)


def shortest(trace: TorchTrace, devices_per_host: int) -> list[MeasuredMessage]:
    """One message of each collective, group and size: the shortest, which waited least for other ranks.

    Groups of too few sizes make no curve; they, and those that lie unequally on hosts, are counted in the trace.
    """
    found: dict[tuple[CollectiveOp, int, int], dict[float, float]] = {}
    for message in trace.messages:
        hosts = Counter(rank // devices_per_host for rank in message.ranks)
        if len(set(hosts.values())) > 1:
            trace.skipped.add("messages of groups that lie unequally on hosts")
            continue
        sizes = found.setdefault((message.op, len(message.ranks), len(hosts)), {})
        sizes[message.num_bytes] = min(message.seconds, sizes.get(message.num_bytes, message.seconds))
    for (op, ranks, _), sizes in found.items():
        if len(sizes) < _LEAST_SIZES:
            trace.skipped.add(f"sizes of {op} over {ranks} ranks, too few for a curve", len(sizes))
    return [
        MeasuredMessage(*group, num_bytes, seconds)
        for group, sizes in found.items() if len(sizes) >= _LEAST_SIZES
        for num_bytes, seconds in sizes.items()
    ]  # fmt: skip


def measured_spec(spec: ClusterSpec, origin: Origin, skipped: dict[str, int]) -> ClusterSpec:
    """`spec` under a name and a source of its own, which say what was measured and what not."""
    left_out = "; ".join(f"{count} {reason}" for reason, count in skipped.items())
    return spec.model_copy(
        update={
            "name": spec.name if spec.name.endswith("-measured") else f"{spec.name}-measured",
            "source": f"{origin.source}, read {origin.date}; all else: {spec.source}",
            "notes": f"not used: {left_out}" if left_out else spec.notes,
            "aliases": (),
        }
    )


def _usual_cluster(device_names: Sequence[str]) -> str:
    """The usual host of the one kind of device that logs name; raises ValueError when that is not clear."""
    if len(device_names) != 1:
        told = " and ".join(device_names) or "no device"
        raise ValueError(f"cluster: the logs name {told}; say whose links were measured (--cluster dgx-h100)")
    name = without_maker(device_names[0])
    try:
        return catalog.node(name).name
    except catalog.UnknownName:
        raise ValueError(
            f"cluster: no accelerator is called {device_names[0]!r}; say whose links were measured (--cluster dgx-h100)"
        ) from None


__all__ = ["LogProfile", "TraceProfile", "from_nccl_tests", "from_traces", "measured_spec", "shortest"]
