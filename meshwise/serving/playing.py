"""From a serving job's file to what happens: deployments with prices and memory, simulations, their figures."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from meshwise.serving.jobfile import PoolTable, ServedTable, ServingFile, TargetsTable
from meshwise.serving.modelling import draft_of, served_form, served_model
from meshwise.serving.traffic import closed_loop, traffic, with_tasks
from planner.cost.drafting import beside_draft, check_draft, drafted
from planner.cost.eager import as_launched
from planner.cost.kv import ServingMemory
from planner.cost.kv_transfer import joining_tier, seconds_per_token
from planner.cost.serving import PriceBook, served_shard
from planner.cost.sliced import num_bins, sliced
from planner.serving import IterationPrices, Pool, ServingPlan
from planner.work.forms import check_units
from profiles import catalog
from profiles.cluster import Cluster
from profiles.engine import EngineRecord
from profiles.model import TransformerShape
from profiles.units import GIB
from simulator.serving.chains import whole_tasks
from simulator.serving.play import play
from simulator.serving.result import Played
from simulator.serving.scaling import Autoscaling, Failure
from simulator.serving.spec import Deployment, PoolSpec, Transfer
from simulator.serving.statistics import Summary, Targets, summary
from simulator.serving.timeline import Timeline
from validate.score.serving.play import replica_of


@dataclass(frozen=True, slots=True)
class Served:
    """One model with everything it needs to be played."""

    name: str
    model: TransformerShape
    engine: EngineRecord
    plan: ServingPlan
    deployment: Deployment
    memory: tuple[ServingMemory, ...]
    """Of a device of each pool, in the order of `deployment.pools`."""


@dataclass(frozen=True, slots=True)
class Run:
    """One simulation."""

    seed: int
    played: Played
    """Every request."""
    whole: Played
    """Every task of requests that follow one another; the same where there are none."""
    timeline: Timeline
    figures: Summary


@dataclass(frozen=True, slots=True)
class ServingAnswer:
    """What a job asks and what came of it."""

    file: ServingFile
    served: tuple[Served, ...]
    runs: tuple[Run, ...]

    @property
    def num_devices(self) -> int:
        """Accelerators at the start, of all models together."""
        return sum(one.plan.num_devices for one in self.served)

    @property
    def mean_devices(self) -> float:
        """Accelerators over the first run, all models together: of pools that scale, the mean."""
        played = self.runs[0].played
        sizes = [
            pool.num_devices // pool.replicas
            for one in self.served
            for pool in (one.plan.prefill, one.plan.decode)
            if pool is not None
        ]
        end = max((end for lives in played.lives_seconds for _, end in lives), default=0.0)
        held = sum(size * seconds for size, seconds in zip(sizes, played.replica_seconds, strict=True))
        return held / end if end else float(self.num_devices)

    @property
    def title(self) -> str:
        """What a picture of it is called."""
        return "; ".join(f"{one.name} on {one.plan.num_devices} of {one.plan.clusters}" for one in self.served)

    @property
    def targets(self) -> Targets:
        """Of the job; tasks may have their own."""
        return targets_of(self.file.targets)

    @property
    def has_targets(self) -> bool:
        """Whether any was stated."""
        return any(each != Targets() for each in tenant_targets(self.file, self.runs[0].whole.requests.tenants))

    @property
    def busiest(self) -> float:
        """Share of the first run, warm-up included, in which its busiest replica ran batches."""
        run = self.runs[0]
        seconds = float(np.nanmax(run.played.last_token_seconds, initial=0.0))
        return max(run.timeline.busy_seconds.values(), default=0.0) / seconds if seconds else 0.0

    def groups(self) -> list[tuple[str, Summary]]:
        """Figures of the first run by tenant and by model, where there are several."""
        run = self.runs[0]
        tenants = run.whole.requests.tenants
        found = []
        if len(tenants) > 1:
            targets = tenant_targets(self.file, tenants)
            found += [(name, summary(run.whole, targets, tenant=number)) for number, name in enumerate(tenants)]
        if len(self.served) > 1:
            none = [Targets()] * len(tenants)
            names = enumerate(one.name for one in self.served)
            found += [(name, summary(run.played, none, deployment=number)) for number, name in names]
        return found

    @property
    def is_met(self) -> bool:
        """Whether the share of requests asked for is within all targets, in every task that has its own."""
        tasks = {task.name: task.targets or self.file.targets for task in self.file.task}
        if len(tasks) < 2:
            asked = self.file.targets if not tasks else next(iter(tasks.values()))
            return self.runs[0].figures.attained_fraction.value >= asked.attained_fraction
        return all(
            found.attained_fraction.value >= tasks[name].attained_fraction
            for name, found in self.groups()[: len(tasks)]
        )

    def spread(self, figure: Callable[[Summary], float]) -> tuple[float, float]:
        """Least and most of a figure over the runs."""
        values = [figure(run.figures) for run in self.runs]
        return min(values), max(values)


def simulate(file: ServingFile, *, keeps_batches: bool = False) -> ServingAnswer:
    """Play a serving job once for each of its seeds.

    Raises ValueError for names that are not known, models that do not fit, and more devices than there are.
    """
    book = PriceBook()
    served = tuple(served_of(table, file.job.cluster, book) for table in file.serving)
    _check_devices(file, served)
    runs: list[Run] = []
    for seed in range(file.load.seed, file.load.seed + file.load.runs):
        timeline = Timeline(keeps_batches=keeps_batches)
        requests = with_tasks(traffic(file.load, seed), file, seed) if file.task else traffic(file.load, seed)
        played = play(
            requests, [one.deployment for one in served], closed_loop=closed_loop(file.load),
            generator=np.random.default_rng(seed), timeline=timeline,
        )  # fmt: skip
        whole = whole_tasks(played)
        figures = summary(whole, tenant_targets(file, whole.requests.tenants))
        runs.append(Run(seed, played, whole, timeline, figures))
    return ServingAnswer(file, served, tuple(runs))


def tenant_targets(file: ServingFile, tenants: Sequence[str]) -> list[Targets]:
    """The targets of each tenant: of the task of its name where that has its own."""
    own = {task.name: task.targets for task in file.task if task.targets is not None}
    return [targets_of(own.get(tenant, file.targets)) for tenant in tenants]


def targets_of(table: TargetsTable) -> Targets:
    """The same as the simulator counts them."""
    return Targets(table.ttft_seconds, table.tpot_seconds, table.e2e_seconds)


def served_of(table: ServedTable, cluster_name: str, book: PriceBook) -> Served:
    """One `[[serving]]` table with its names resolved and its replicas priced."""
    model = served_model(table)
    engine, home = catalog.engine(table.engine), table.cluster or cluster_name
    plan = ServingPlan(
        decode=_pool(table, engine, home), prefill=_pool(table.prefill, engine, home) if table.prefill else None,
        weights=served_form(table, table.weights), expert_weights=table.expert_weights, kv_dtype=table.kv_dtype,
        draft_tokens=table.draft_tokens, acceptance_fraction=table.acceptance_fraction,
        draft_model=table.draft_model or "", eager=table.eager,
    )  # fmt: skip
    decode, memory = _pool_spec(table, table, plan.decode, model, engine, plan, book)
    memories = [memory]
    prefill = transfer = None
    if table.prefill is not None and plan.prefill is not None:
        prefill, memory = _pool_spec(table.prefill, table, plan.prefill, model, engine, plan, book)
        memories.insert(0, memory)
        transfer = _transfer(plan, plan.prefill, *memories)
    swap = _swap_seconds_per_token(memories[-1], plan.decode.cluster) if table.preemption == "swap" else 0.0
    decode = replace(decode, replica=replace(decode.replica, swap_seconds_per_token=swap))
    deployment = Deployment(decode, prefill, transfer)
    return Served(table.name or model.name, model, engine, plan, deployment, tuple(memories))


def _pool(table: PoolTable, engine: EngineRecord, home: str) -> Pool:
    return Pool(
        table.replicas, table.tp, table.pp, table.ep, table.attention_dp,
        table.token_budget or engine.token_budget, table.max_sequences or engine.max_sequences, table.device_fraction,
        table.cluster or home,
    )  # fmt: skip


def _pool_spec(
    table: PoolTable, served: ServedTable, pool: Pool, model: TransformerShape, engine: EngineRecord, plan: ServingPlan,
    book: PriceBook,
) -> tuple[PoolSpec, ServingMemory]:  # fmt: skip
    """A pool with the prices and the memory of its replicas, each on devices next to one another."""
    _check_split(pool, model)
    cluster = catalog.cluster(pool.cluster, pool.num_devices // pool.replicas)
    check_units(plan.weights, cluster.accelerator)
    draft = draft_of(served) if pool is plan.decode else None
    replica, memory = replica_of(model, _sliced(cluster, pool.device_fraction), plan, pool, engine, book)
    prices: IterationPrices = replica.stages[0]
    if draft is not None:
        check_draft(draft, model, pool.tp)
        own = book.prices(model, served_shard(plan, pool, engine), cluster, engine)
        prices = drafted(own, draft, plan, pool, cluster, engine, book)
        held_bytes = pool.device_fraction * cluster.accelerator.memory_bytes
        memory = beside_draft(memory, draft, plan, pool, held_bytes, engine)
        replica = replace(replica, kv_tokens=max(int(memory.num_kv_tokens), engine.block_tokens))
    launched = as_launched(prices, plan, served_shard(plan, pool, engine), model, engine)
    replica = replace(replica, stages=(sliced(launched, pool.device_fraction),) * len(replica.stages))
    if memory.kv_bytes <= 0.0:
        raise ValueError(
            f"serving: weights of {model.name} take {memory.weight_bytes / GIB:.1f} GiB of each of "
            f"{pool.num_devices // pool.replicas} {cluster.accelerator.name} and leave nothing for keys and values; "
            "raise tp or pp, or take narrower weights"
        )
    scaling = None
    if table.scaling is not None:
        of = table.scaling
        scaling = Autoscaling(
            of.least, of.most, of.requests_per_replica, of.startup_seconds, of.interval_seconds, of.quiet_seconds
        )
    failures = tuple(Failure(of.at_seconds, of.repair_seconds, of.replica) for of in table.failures)
    return PoolSpec(replica, table.replicas, table.router, scaling, failures), memory


def _sliced(cluster: Cluster, share: float) -> Cluster:
    """The same with so much of each device's memory; kernels are those of whole devices."""
    if share == 1.0:
        return cluster
    device = cluster.accelerator
    less = device.model_copy(update={"memory_bytes": share * device.memory_bytes})
    return cluster.model_copy(update={"accelerator": less})


def _check_split(pool: Pool, model: TransformerShape) -> None:
    """Raise ValueError for degrees that the model's parts do not divide by."""
    ranks = pool.tp * pool.attention_dp
    if model.num_heads % pool.tp:
        raise ValueError(f"tp: {pool.tp} does not divide the {model.num_heads} attention heads of {model.name}")
    if pool.pp > model.num_layers:
        raise ValueError(f"pp: {pool.pp} stages are more than the {model.num_layers} layers of {model.name}")
    if pool.ep > 1 and (model.moe is None or model.moe.num_experts % pool.ep):
        experts = 0 if model.moe is None else model.moe.num_experts
        raise ValueError(f"ep: {pool.ep} does not divide the {experts} experts of {model.name}")
    if ranks % pool.ep:
        raise ValueError(f"ep: {pool.ep} does not divide the tp * attention_dp = {ranks} ranks of a stage")


def _transfer(plan: ServingPlan, prefill: Pool, sender: ServingMemory, receiver: ServingMemory) -> Transfer:
    """Between the pools: every device sends or receives what it holds over its own share of the links between them."""
    leaves = prefill.cluster != plan.decode.cluster
    counts = (prefill.num_devices, plan.decode.num_devices) if leaves else (plan.num_devices,) * 2
    clusters = (prefill.cluster, plan.decode.cluster)
    sending, receiving = (
        joining_tier(name, count, leaves=leaves) for name, count in zip(clusters, counts, strict=True)
    )
    rate = sender.kv_bytes_per_token / seconds_per_token(sender, receiver, sending, receiving)
    latency = max(sending.latency_seconds, receiving.latency_seconds)
    return Transfer(sender.kv_bytes_per_token, rate, latency)


def _swap_seconds_per_token(memory: ServingMemory, cluster_name: str) -> float:
    """Every device copies its share to its host, all at once."""
    device = catalog.cluster(cluster_name).accelerator
    if device.host_bytes_per_second is None:
        raise ValueError(f"preemption: the rate of {device.name} to its host is not known; use recompute")
    return memory.kv_bytes_per_token / device.host_bytes_per_second


def _check_devices(file: ServingFile, served: tuple[Served, ...]) -> None:
    """Raise ValueError where the replicas need more devices than there are, or more than autoscaling may ask for."""
    used: Counter[str] = Counter()
    shared: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for table, one in zip(file.serving, served, strict=True):
        for place, pool in ((table, one.plan.decode), (table.prefill, one.plan.prefill)):
            if place is not None and pool is not None:
                most = max(pool.replicas, place.scaling.most if place.scaling else 0)
                size = pool.num_devices // pool.replicas
                if pool.device_fraction < 1.0:
                    shared[pool.cluster, size] += [pool.device_fraction] * most
                else:
                    used[pool.cluster] += size * most
    for (name, size), shares in shared.items():
        used[name] += num_bins(shares) * size
    for room in file.job.rooms:
        if room.devices is not None and used[room.cluster] > room.devices:
            raise ValueError(
                f"devices: {room.devices} of {room.cluster} are fewer than the {used[room.cluster]} that replicas take"
            )
