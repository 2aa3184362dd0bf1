"""What each cluster of an offer can do with a model: replicas, their rates, and how wrong these may be."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from meshwise.serving.asking import question_of, space_of
from meshwise.serving.jobfile import ServingFile
from planner.choose.serving_capacity.rank import Hardware
from planner.choose.serving_replicas import ServingSpace, replicas
from planner.cost.serving import has_library
from profiles import catalog
from profiles.cluster import Cluster
from profiles.engine import EngineRecord

SPACE = ServingSpace(pp=(1, 2), token_budgets=(2048, 8192), sequence_limits=(16, 32, 64, 128, 256, 512))
"""Coarser than that of a search on one cluster: there are dozens."""
_P90_QUANTILE = 1.645
"""Nine of ten absolute errors of a normal distribution are below so many standard deviations."""
NOTHING = ((), (), ())


def hardware_of(
    file: ServingFile, clusters: Iterable[str], max_hosts: int,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Hardware]:  # fmt: skip
    """Of each cluster by name. Clusters that differ in name only are priced once."""
    known: dict[str, Hardware] = {}
    found = {}
    names = sorted(set(clusters))
    for number, name in enumerate(names):
        if on_progress is not None:
            on_progress("price", number, len(names))
        host = catalog.devices_per_host(catalog.cluster_spec(name))
        alike = catalog.cluster(name, host).model_dump_json(exclude={"name", "source", "notes", "unverified"})
        if alike not in known or known[alike].refused:
            known[alike] = _hardware(file, name, host, max_hosts)
        found[name] = known[alike]
    return found


def _hardware(file: ServingFile, name: str, host: int, max_hosts: int) -> Hardware:
    """Replicas within one host, or, where none fits there, within the fewest that hold one."""
    refused: Counter[str] = Counter()
    hosts = 1
    while hosts <= max_hosts:
        try:
            cluster = catalog.cluster(name, hosts * host)
        except ValueError as error:
            return Hardware(NOTHING, math.nan, str(error))
        question = replace(question_of(file, cluster), cluster_name=name)
        refused.clear()
        found = replicas(question, space_of(file.serving[0], question, SPACE), refused)
        if any(found):
            return Hardware(found, error_factor(question.engine, cluster))
        hosts *= 2
    return Hardware(NOTHING, math.nan, refused.most_common(1)[0][0] if refused else "no split of the model fits")


def error_factor(engine: EngineRecord, cluster: Cluster) -> float:
    """One standard deviation of a replica's rate over what is said, which is log-normal.

    That of the times of tokens of published runs left out of the fit of `engine`; where kernels of serving were never
    measured on relatives of the accelerator, that of its products by the curves of others comes on top.
    """
    parts = [engine.fit.held_out_tpot_p90_error_fraction] if engine.fit else []
    if not has_library(cluster):
        parts += [
            fit.held_out_p90_error_fraction or 0.0
            for name, fit in cluster.kernels.fits().items()
            if name == "elementwise"
        ]
    return math.exp(math.sqrt(sum(part**2 for part in parts)) / _P90_QUANTILE)
