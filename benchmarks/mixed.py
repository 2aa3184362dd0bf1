"""Clusters of several groups of nodes: the plan found against random ones, and how long the search takes.

`python -m benchmarks.mixed [RANDOM]`; RANDOM legal plans are drawn for each case, 10,000 unless said. Drawn are the
degrees, the groups of stages and replicas, layers, microbatches, recomputation and sharding; those that fit into memory
are priced in full.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from planner.choose.mixed import search_mixed
from planner.choose.mixed_rules import check_placed
from planner.choose.skeletons import Skeleton, skeletons, way_of
from planner.cost.mixed import price, tightest_seat
from planner.placement import Lane, written
from planner.plan import Plan
from planner.recompute import Recompute
from planner.work.layers import num_blocks
from profiles import catalog
from profiles.mixed import GroupSpec, JoinSpec, MixedCluster, MixedSpec
from profiles.mixing import built
from profiles.workload import TrainingJob

STACK = "megatron-core"
MOST_DRAWN_FOR_ONE = 50
"""Draws, a legal plan, before it is given up."""


@dataclass(frozen=True, slots=True)
class Case:
    """A job and the groups it runs on."""

    name: str
    model: str
    global_batch: int
    groups: tuple[tuple[str, str, int], ...]
    """(name, node, number of nodes)."""
    total_gb_per_second: float | None = None

    def cluster(self) -> MixedCluster:
        """The cluster."""
        groups = tuple(GroupSpec(name=name, node=node, num_nodes=number) for name, node, number in self.groups)
        rate = self.total_gb_per_second
        line = {"link": "ethernet", "total_gb_per_second": rate, "latency_us": 5000}
        join = JoinSpec.model_validate(line) if rate else None
        made = built(MixedSpec(name=self.name, source="a benchmark", groups=groups, join=join))
        assert isinstance(made, MixedCluster)
        return made


CASES = (
    Case("A100 and H100 in a room", "llama2-70b", 256, (("h100", "dgx-h100", 4), ("a100", "dgx-a100", 4))),
    Case("many H100, few A100", "llama3-8b", 256, (("h100", "dgx-h100", 6), ("a100", "dgx-a100", 2))),
    Case("two sites, 100 Gb/s", "llama3-8b", 512, (("north", "dgx-h100", 4), ("south", "dgx-h100", 4)), 12.5),
    Case("two sites, 10 Gb/s", "llama3-8b", 512, (("north", "dgx-h100", 4), ("south", "dgx-h100", 4)), 1.25),
)


def random_plans(case: Case, generator: np.random.Generator) -> Iterator[Plan]:
    """Plans drawn at random; most are neither legal nor small enough."""
    cluster, blocks = case.cluster(), num_blocks(catalog.model(case.model))
    every = [one for tp in (1, 2, 4, 8) for one in skeletons(cluster, tp, 1, blocks)]
    while True:
        yield _drawn(every[generator.integers(len(every))], case, blocks, generator)


def _drawn(skeleton: Skeleton, case: Case, blocks: int, generator: np.random.Generator) -> Plan:
    micro_batch = int(generator.choice([1, 2, 4]))
    number = max(case.global_batch // micro_batch, skeleton.dp)
    shares = 1 + generator.multinomial(number - skeleton.dp, np.full(skeleton.dp, 1.0 / skeleton.dp))
    stages = [names for count, names in skeleton.lanes for _ in range(count)]
    layers = 1 + generator.multinomial(blocks - skeleton.pp, np.full(skeleton.pp, 1.0 / skeleton.pp))
    return Plan(
        dp=skeleton.dp, tp=skeleton.tp, pp=skeleton.pp, micro_batch=micro_batch,
        layout=tuple(layers.tolist()),
        recompute=list(Recompute)[generator.integers(2)], zero_stage=int(generator.integers(2)),
        sequence_parallel=skeleton.tp > 1 and bool(generator.integers(2)),
        placement=tuple(Lane(1, int(share), names) for share, names in zip(shares, stages, strict=True)),
    )  # fmt: skip


def best_of_random(case: Case, count: int) -> tuple[float, int, int]:
    """(step of the best of `count` random legal plans, how many there were, how many of them fit)."""
    cluster, stack = case.cluster(), catalog.software(STACK)
    job = TrainingJob(model=catalog.model(case.model), global_batch=case.global_batch, sequence_length=4096)
    best, num_legal, num_fitting = np.inf, 0, 0
    for drawn, plan in enumerate(random_plans(case, np.random.default_rng(0))):
        if num_legal >= count or drawn >= MOST_DRAWN_FOR_ONE * count:
            break
        lanes = _merged(plan)
        if check_placed(lanes, job, cluster):
            continue
        num_legal += 1
        if tightest_seat(lanes, job, cluster, stack).headroom_bytes >= 0.0:
            num_fitting += 1
            best = min(best, float(price(lanes, job, cluster, stack).step_seconds))
    return best, num_legal, num_fitting


def _merged(plan: Plan) -> Plan:
    """The same plan with replicas that are alike as one lane."""
    counts: dict[tuple[int, tuple[str, ...]], int] = {}
    for lane in plan.placement:
        key = (lane.num_microbatches, lane.stages)
        counts[key] = counts.get(key, 0) + lane.num_replicas
    return replace(plan, placement=tuple(Lane(count, *key) for key, count in counts.items()))


def main(count: int = 10_000) -> None:
    """Print a line for each case."""
    for case in CASES:
        job = TrainingJob(model=catalog.model(case.model), global_batch=case.global_batch, sequence_length=4096)
        started = time.process_time()
        best = search_mixed(job, case.cluster(), catalog.software(STACK), top=1).candidates[0]
        elapsed = time.process_time() - started
        step = float(best.step_seconds)
        drawn, num_legal, num_fitting = best_of_random(case, count)
        print(f"{case.name}: {step:.3f} s found in {elapsed:.1f} s, {way_of(best.plan.placement)}")
        print(f"    {written(best.plan.placement)}")
        line = f"    best of {num_legal:,} random legal plans ({num_fitting:,} fit) {drawn:.3f} s"
        print(f"{line}, {drawn / step - 1.0:+.1%}", flush=True)


if __name__ == "__main__":
    main(*(int(text) for text in sys.argv[1:]))
