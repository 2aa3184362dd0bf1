"""Name or path -> record. Every profile is one TOML file whose stem is its name, read when it is asked for.

Case, spaces, underscores and remarks in parentheses are forgiven ("H100_SXM (ours)" is "h100-sxm"), aliases are
known, and an unknown name is answered with its near neighbours.
"""

import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from profiles import lookup
from profiles.accelerator import Accelerator
from profiles.attainable import within_attainable
from profiles.calibration import KernelCurves, LinkCurves
from profiles.clocks import under_power_limit
from profiles.cluster import MAX_DEVICES, Cluster, ClusterSpec, Link, Node, Tier, TierSpec, link_share, tier_sizes
from profiles.fabric import Fabric
from profiles.files import BadFile, explain, read_table, read_text, validated
from profiles.lookup import DATA, UnknownName
from profiles.record import Sourced
from profiles.reliability import Reliability
from profiles.residuals import Residuals

if TYPE_CHECKING:
    from profiles.engine import EngineRecord
    from profiles.libraries import LibraryCurves
    from profiles.mixed import AnyCluster
    from profiles.model import LayerList, TransformerShape
    from profiles.offer import Offer
    from profiles.software import SoftwareStack

__all__ = [
    "KINDS", "BadFile", "UnknownName", "accelerator", "aliases", "any_cluster", "built_tier", "cluster", "cluster_spec",
    "devices_per_host", "engine", "expand", "explain", "fabric", "kernel_curves", "library_curves", "link",
    "link_curves", "load", "model", "names", "node", "offer", "reliability", "software",
]  # fmt: skip

KINDS = (
    "accelerators", "nodes", "clusters", "links", "fabrics", "models", "software", "calibration", "reliability",
    "engines", "offers", "costs", "variants",
)  # fmt: skip
AnySourced = TypeVar("AnySourced", bound=Sourced)


def names(kind: str) -> tuple[str, ...]:
    """All names of a kind in `KINDS`, sorted; calibrations are written "kernels/h100-sxm", "links/nvlink-4"."""
    if kind not in KINDS:
        raise UnknownName(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
    if kind == "offers":
        from profiles.prices import catalogued

        return tuple(sorted(catalogued()))
    return tuple(sorted(lookup.files(DATA / kind)))


def aliases(kind: str) -> Mapping[str, str]:
    """Every other way to write a name of `kind` -> the name."""
    known = lookup.aliases(DATA / kind)
    return {alias: name for alias, name in known.items() if alias != name}


def accelerator(name: str) -> Accelerator:
    """The accelerator called `name`; raises UnknownName."""
    return _record(Accelerator, lookup.find("accelerators", name))


def node(name: str) -> Node:
    """The node called `name`, or the usual host of the accelerator called so; raises UnknownName."""
    path = lookup.node_path(name)
    if path is None:
        raise UnknownName(lookup.unknown("nodes", name, also="accelerators"))
    return _record(Node, path)


def link(name: str) -> Link:
    """The kind of link called `name`; raises UnknownName."""
    return _record(Link, lookup.find("links", name))


def model(name_or_path: str | os.PathLike[str]) -> "TransformerShape | LayerList":
    """A model of the catalog, a model record in a .toml file, or a Hugging Face config.json (or its folder).

    Raises UnknownName, or BadFile when a file cannot be read as a model.
    """
    path = lookup.locate("models", name_or_path)
    if path.is_dir():
        path /= "config.json"
    if path.suffix.lower() != ".json":
        return (_cached_model if path.is_relative_to(DATA) else _read_model)(path)
    from profiles import huggingface  # only needed for files of that kind

    name = path.resolve().parent.name if path.stem == "config" else path.stem
    try:
        return huggingface.from_config(read_table(path), name)
    except BadFile:
        raise
    except ValueError as error:
        raise BadFile(f"{path}: {_sentence(error)}") from None


def software(name_or_path: str | os.PathLike[str]) -> "SoftwareStack":
    """A software stack of the catalog or of a .toml file; raises UnknownName or BadFile."""
    from profiles.software import SoftwareStack

    return _record(SoftwareStack, lookup.locate("software", name_or_path))


def reliability(name_or_path: str | os.PathLike[str]) -> Reliability:
    """The failures of a fleet of the catalog or of a .toml file; raises UnknownName or BadFile."""
    return _record(Reliability, lookup.locate("reliability", name_or_path))


def fabric(name_or_path: str | os.PathLike[str]) -> Fabric:
    """The wiring between nodes called so, or of a .toml file; raises UnknownName or BadFile."""
    return _record(Fabric, lookup.locate("fabrics", name_or_path))


def engine(name_or_path: str | os.PathLike[str]) -> "EngineRecord":
    """An inference engine of the catalog or of a .toml file; raises UnknownName or BadFile."""
    from profiles.engine import EngineRecord

    return _record(EngineRecord, lookup.locate("engines", name_or_path))


def offer(name: str, own: "Sequence[Offer]" = ()) -> "Offer":
    """What is for rent or sale under `name`, in the catalog or among a user's `own`; raises UnknownName."""
    from profiles import prices

    return prices.offer(name, own)


def kernel_curves(accelerator: str) -> KernelCurves:
    """The kernel curves measured on `accelerator` (its name in the catalog), else those of the pool."""
    return _curves(KernelCurves, DATA / "calibration" / "kernels", accelerator, "accelerators", "pool")


def _kernels_of(device: Accelerator) -> KernelCurves:
    """The curves of the chip of `device`, under its own power limit; else the pool's, within what it attains."""
    curves = kernel_curves(device.name)
    if not curves.accelerators:
        return within_attainable(curves, device)
    measured = curves.name if curves.name in curves.accelerators else device.name
    return curves if measured == device.name else under_power_limit(curves, device, accelerator(measured))


@cache
def library_curves(accelerator: str) -> "LibraryCurves":
    """The kernels of libraries measured on relatives of `accelerator` (its name in the catalog).

    Raises ValueError when none of its family was measured.
    """
    from profiles.libraries import LibraryCurves

    for _, path in sorted(lookup.files(DATA / "calibration" / "libraries").items()):
        if f" {accelerator} = " in read_text(path).partition("\n[")[0]:
            return _record(LibraryCurves, path)
    raise ValueError(f"accelerator {accelerator}: no library's kernels were measured on a device of its family")


def link_curves(link: str, link_class: str) -> LinkCurves:
    """The collective curves measured over `link`, else those of the pool of its class."""
    return _curves(LinkCurves, DATA / "calibration" / "links", link, "links", f"pool-{link_class}")


def any_cluster(name_or_path: str | os.PathLike[str], num_devices: int | None = None) -> "AnyCluster":
    """As `cluster`, but the nodes may differ: a file with [[groups]] is a `profiles.mixed.MixedCluster`."""
    path = Path(name_or_path)
    if not path.is_file() or "groups" not in read_table(path):
        return cluster(name_or_path, num_devices)
    from profiles.mixing import mixed_cluster

    return mixed_cluster(path, num_devices)


def cluster(name_or_path: str | os.PathLike[str], num_devices: int | None = None) -> Cluster:
    """The cluster, node or accelerator called so (or the cluster in a .toml file), with `num_devices` devices.

    Without `num_devices`: the size the cluster file states, or one scale-up domain of a node (8 GPUs, an NVL72
    rack, a TPU pod). Fewer devices than a node has shrink its inner tiers. Raises UnknownName, BadFile, or
    ValueError when the devices do not fill whole nodes.
    """
    catalogued = None
    if not lookup.is_file_name(name_or_path):
        name = str(name_or_path)
        catalogued = lookup.path_of("clusters", name) or lookup.node_path(name)
    if catalogued is not None:
        return _catalogued_cluster(catalogued, num_devices)
    path = lookup.given_path("clusters", name_or_path, also="nodes")
    return _cluster(_record(ClusterSpec, path), num_devices, path)


@cache
def _catalogued_cluster(path: Path, num_devices: int | None) -> Cluster:
    if path.parent.name == "clusters":
        return _cluster(_record(ClusterSpec, path), num_devices, path.stem)
    host = _record(Node, path)
    return _cluster(_spec_of(host), num_devices, host.name)


def cluster_spec(name_or_path: str | os.PathLike[str]) -> ClusterSpec:
    """The cluster, node or accelerator called so, or the cluster in a .toml file, as a file states it.

    A node alone becomes a specification that names it. Raises UnknownName or BadFile.
    """
    if not lookup.is_file_name(name_or_path):
        name = str(name_or_path)
        if (host := lookup.node_path(name)) is not None and lookup.path_of("clusters", name) is None:
            return _spec_of(_record(Node, host))
    return _record(ClusterSpec, lookup.locate("clusters", name_or_path))


def _spec_of(host: Node) -> ClusterSpec:
    about = host.model_dump(include={"name", "source", "unverified", "notes"})
    return ClusterSpec(node=host.name, **about)


def expand(spec: ClusterSpec, num_devices: int | None = None) -> Cluster:
    """The cluster that `spec` stands for, with `num_devices` devices; raises as `cluster`."""
    return _cluster(spec, num_devices, spec.name)


def devices_per_host(spec: ClusterSpec) -> int:
    """Accelerators of one host of the cluster that `spec` states; raises UnknownName."""
    return node(spec.node).num_devices if spec.node is not None else spec.tiers[0].num_devices or 1


def load(kind: str, name: str) -> Sourced:
    """The record of any kind in `KINDS` as its file states it (a cluster unexpanded); raises UnknownName."""
    if kind not in KINDS:
        raise UnknownName(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
    if kind == "models":
        return model(name)
    if kind == "software":
        return software(name)
    if kind == "engines":
        return engine(name)
    if kind == "variants":
        from profiles.variant import variant

        return variant(name)
    if kind == "offers":
        return offer(name)
    if kind == "costs":
        from profiles import costs

        return costs.load(name)
    path = lookup.find(kind, name)
    if kind == "calibration":
        from profiles.libraries import LibraryCurves

        curves: dict[str, type[Sourced]] = {"kernels": KernelCurves, "links": LinkCurves, "libraries": LibraryCurves}
        return _record(curves.get(path.parent.name, Residuals), path)
    records: dict[str, type[Sourced]] = {
        "accelerators": Accelerator, "nodes": Node, "clusters": ClusterSpec, "links": Link,
        "reliability": Reliability, "fabrics": Fabric,
    }  # fmt: skip
    return _record(records[kind], path)


def _cluster(spec: ClusterSpec, num_devices: int | None, where: Path | str) -> Cluster:
    """The whole cluster a specification stands for; what it leaves out comes from node, link and calibration.

    `where` is the file a user named, or the name of something in the catalog, and begins every error.
    """
    try:
        host = node(spec.node) if spec.node is not None else None
        tiers = _tiers(spec, host)
        per_node = host.num_devices if host else tiers[0].num_devices or 1
        wanted = _wanted_devices(spec, num_devices, tiers, per_node)
        sizes = tier_sizes([tier.num_devices for tier in tiers], wanted, per_node)
        named = host.accelerator if host else spec.accelerator
        device = named if isinstance(named, Accelerator) else accelerator(str(named))
        return Cluster(
            **spec.model_dump(include={"name", "source", "unverified", "notes"}),
            accelerator=device,
            num_devices=wanted,
            tiers=tuple(built_tier(tier, size, spec.curves) for tier, size in zip(tiers, sizes, strict=True) if size),
            kernels=spec.kernels or _kernels_of(device),
            host_memory_bytes=spec.host_memory_bytes or (host.host_memory_bytes if host else None),
        )
    except UnknownName as error:
        raise UnknownName(f"{where}: {error}") from None
    except ValueError as error:
        kind = BadFile if isinstance(where, Path) else ValueError
        raise kind(f"{where}: {_sentence(error)}") from None


def _tiers(spec: ClusterSpec, host: Node | None) -> tuple[TierSpec, ...]:
    """The node's tiers that lie inside the first tier of `spec`, then those of `spec`."""
    if host is None:
        return spec.tiers
    if not spec.tiers:
        return host.tiers
    around = spec.tiers[0].num_devices or math.inf
    inside = (tier for tier in host.tiers if tier.num_devices is not None and tier.num_devices < around)
    return (*inside, *spec.tiers)


def _wanted_devices(spec: ClusterSpec, num_devices: int | None, tiers: Sequence[TierSpec], per_node: int) -> int:
    """Devices asked for, or stated, or of the largest tier with a size; raises ValueError on too many."""
    stated = spec.num_devices if spec.num_nodes is None else spec.num_nodes * per_node
    if num_devices is None:
        return stated or max((tier.num_devices or per_node for tier in tiers), default=per_node)
    if not 1 <= num_devices <= MAX_DEVICES:
        raise ValueError(f"num_devices: must be between 1 and {MAX_DEVICES:,}, got {num_devices}")
    if stated is not None and num_devices > stated:
        raise ValueError(f"num_devices: the cluster has {stated} devices, got {num_devices}")
    return num_devices


def built_tier(spec: TierSpec, num_devices: int, measured: Sequence[LinkCurves] = ()) -> Tier:
    """`spec` with `num_devices` devices; what it leaves out comes from the record of its link, and its curves.

    Curves `measured` on its link come before those.
    """
    path = lookup.path_of("links", spec.link)
    kind = _record(Link, path) if path is not None else None
    link_class = spec.link_class or (kind.link_class if kind else None)
    rate = spec.bytes_per_second or (kind.bytes_per_second if kind else None)
    if kind is None and (link_class is None or rate is None):
        raise UnknownName(
            f"tier {spec.name}: {lookup.unknown('links', spec.link)}, or give link_class and bytes_per_second"
        )
    if link_class is None or rate is None:
        raise ValueError(f"tier {spec.name}: gb_per_second is missing, and {spec.link} links have no usual rate")
    latency = spec.latency_seconds if spec.latency_seconds is not None else kind.latency_seconds if kind else 0.0
    return Tier(
        **spec.model_dump(
            include={"name", "topology", "oversubscription", "in_network_reduction", "num_dimensions", "wrap_length"}
        ),
        link=kind.name if kind else spec.link,
        link_class=link_class,
        num_devices=num_devices,
        bytes_per_second=rate * link_share(spec, num_devices),
        latency_seconds=latency,
        curves=_with_measured(spec.curves or link_curves(kind.name if kind else spec.link, link_class), spec, measured),
    )


def _with_measured(curves: LinkCurves, spec: TierSpec, measured: Sequence[LinkCurves]) -> LinkCurves:
    """`curves` under those of `measured` that list the link of `spec`."""
    for own in measured:
        if spec.link in own.links:
            source = f"{own.source}; collectives not measured there: {curves.source}"
            collectives = curves.collectives | own.collectives
            curves = curves.model_copy(update={"name": own.name, "source": source, "collectives": collectives})
    return curves


def _sentence(error: ValueError) -> str:
    return explain(error) if isinstance(error, ValidationError) else str(error)


def _read_model(path: Path) -> "TransformerShape | LayerList":
    from profiles.model import LayerList, TransformerShape

    values = {"kind": "transformer", **read_table(path)}
    if values["kind"] == "layers":
        return validated(LayerList, values, path)
    return validated(TransformerShape, values, path)


_cached_model = cache(_read_model)


def _read_record(record: type[AnySourced], path: Path) -> AnySourced:
    return validated(record, read_table(path), path)


_cached_record = cache(_read_record)


def _record(record: type[AnySourced], path: Path) -> AnySourced:
    """The file at `path` as a `record`. The catalog's own files do not change; a user's may."""
    return (_cached_record if path.is_relative_to(DATA) else _read_record)(record, path)


@cache
def _curves(record: type[AnySourced], folder: Path, name: str, field: str, pool: str) -> AnySourced:
    """The record in `folder` whose `field` lists `name`, else `pool`. Files that do not mention it stay unparsed."""
    own = folder / f"{name}.toml"
    others = (
        path for stem, path in sorted(lookup.files(folder).items()) if not stem.startswith("pool") and path != own
    )
    for path in (own, *others):
        if path.exists() and f'"{name}"' in read_text(path):
            curves = _record(record, path)
            if name in getattr(curves, field):
                return curves
    return _record(record, folder / f"{pool}.toml")
