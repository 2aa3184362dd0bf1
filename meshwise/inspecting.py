"""Looking into the catalog: records by name wherever they are, and whether each one loads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles import catalog
from profiles.cluster import ClusterSpec
from profiles.files import read_table, validated
from profiles.mixed import MixedSpec
from profiles.record import Sourced


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found: how many records were loaded, and a sentence for each that would not."""

    num_checked: int
    faults: tuple[str, ...]


def find(name: str, kind: str | None) -> dict[str, Sourced]:
    """The records called `name`, by kind; in every kind unless one is named. A file of groups of nodes is a cluster.

    Raises UnknownName with close neighbours when there is none.
    """
    path = Path(name)
    if path.suffix.lower() == ".toml" and path.is_file() and "groups" in read_table(path):
        return {"clusters": validated(MixedSpec, read_table(path), path)}
    if kind is not None:
        return {kind: catalog.load(kind, name)}
    found: dict[str, Sourced] = {}
    misses = []
    for one in catalog.KINDS:
        try:
            found[one] = catalog.load(one, name)
        except catalog.UnknownName as error:
            misses.append(str(error))
    if not found:
        close = [miss for miss in misses if "close names" in miss]
        raise catalog.UnknownName("; ".join(close) or f"no profile is called {name!r}; see `meshwise profiles list`")
    return found


def as_json(records: dict[str, Sourced]) -> dict[str, Any]:
    """Records by kind as plain JSON values, with what is derived from them."""
    return {kind: record.model_dump(mode="json") for kind, record in records.items()}


def draw_network(name: str, path: Path, num_devices: int | None, fabric: str | None, *, force: bool) -> None:
    """Draw the network of the cluster, node or accelerator called `name`; raises ValueError for any other name."""
    from profiles.files import PICTURES, check_writable
    from simulator.network.build import build_network
    from simulator.network.draw import save_network

    check_writable(path, force, PICTURES)
    cluster = catalog.cluster(name, num_devices)
    save_network(build_network(cluster, catalog.fabric(fabric) if fabric else None), path)


def check(files: Sequence[Path]) -> Report:
    """Load `files`, or without any the whole catalog with a cluster of each node; collect every fault."""
    tasks = [(str(path), lambda path=path: _load_file(path)) for path in files] or _catalogued()
    faults = []
    for name, load in tasks:
        try:
            load()
        except ValueError as error:
            faults.append(str(error) if name in str(error) else f"{name}: {error}")
    return Report(len(tasks), tuple(faults))


def _catalogued() -> list[tuple[str, Any]]:
    records = [
        (f"{kind}/{name}", lambda kind=kind, name=name: catalog.load(kind, name))
        for kind in catalog.KINDS
        for name in catalog.names(kind)
    ]
    clusters = [
        (f"{kind}/{name}", lambda name=name: catalog.cluster(name))
        for kind in ("nodes", "clusters")
        for name in catalog.names(kind)
    ]
    return records + clusters


def _load_file(path: Path) -> None:
    """Load a file as the record its keys say it is."""
    from profiles.accelerator import Accelerator
    from profiles.cluster import Node
    from profiles.software import SoftwareStack

    if path.suffix.lower() == ".json":
        catalog.model(path)
        return
    values = read_table(path)
    if "offers" in values:
        from profiles.prices import parse_offers

        parse_offers(values, path)
    elif "provider" in values:
        validated(Node, values, path)
    elif "peak_tflops" in values or "peak_flops_per_second" in values:
        validated(Accelerator, values, path)
    elif "restart_minutes" in values or "restart_seconds" in values:
        catalog.reliability(path)
    elif "wiring" in values:
        catalog.fabric(path)
    elif "groups" in values:
        catalog.any_cluster(path)
    elif set(values) & (set(ClusterSpec.model_fields) - set(Sourced.model_fields) - {"aliases"}):
        catalog.cluster(path)
    elif "family" in values or "layers" in values:
        catalog.model(path)
    elif "job" in values or "split" in values:
        from meshwise import jobfile

        jobfile.question(jobfile.devices_of(jobfile.read(path, {}, {})))
    else:
        validated(SoftwareStack, values, path)
