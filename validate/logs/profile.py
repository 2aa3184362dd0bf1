"""A profile from logs: a known cluster, with the curves that the logs measured in place of the catalog's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from profiles import catalog
from profiles.cluster import ClusterSpec
from profiles.files import check_writable, write_whole
from profiles.writer import to_toml
from validate.fit import Origin
from validate.logs.devices import without_maker
from validate.logs.links import FittedGroup, fit_links
from validate.logs.nccl_tests import read_nccl_tests


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


__all__ = ["LogProfile", "from_nccl_tests", "measured_spec"]
