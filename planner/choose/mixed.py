"""The best plans on several groups of nodes: every placement with every setting of the knobs, a bound, whole plans.

Plans on one group alone, the others idle, come from the search of that group, so that more nodes never hurt.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import planner.choose.search as alike
from planner.choose.frames import Choices, Frame, frame
from planner.choose.knobs import divisors
from planner.choose.mixed_rules import check_placed
from planner.choose.requirements import Objective, Requirement, Scenario
from planner.choose.search import Answer, Candidate, Progress, Simulate, codes_of, with_reasons
from planner.choose.skeletons import Skeleton, way_of
from planner.choose.space import FEWEST_TOKENS_PER_CONTEXT_RANK, MIN_TOKENS_PER_CONTEXT_RANK
from planner.cost.columns import WORK_COLUMNS
from planner.cost.estimate import Estimate
from planner.cost.layouts import even_counts
from planner.cost.mixed import home_of, price, tightest_seat
from planner.cost.shares import LayerSeconds, Shares, balanced_layouts, shared_out
from planner.order import USUAL_ORDER
from planner.placement import Lane
from planner.plan import Plan, PlanGrid
from profiles.cluster import Cluster
from profiles.mixed import AnyCluster, MixedCluster
from profiles.model import TransformerShape
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

MOST_DEALT, MOST_PRICED = 240, 16
"""Plans of the lowest bounds that are dealt out; and the best of them, one of each split, that are walked."""
DEALT_OF_SPLIT = 2
"""Plans of one split that are dealt out."""
TRIED_OF_SPLIT = 8
"""Plans of one split that are dealt out before it is given up as too big."""
HOPELESS = 1.25
"""A plan whose bound is so many times the best step is not looked at."""
MOST_ROUNDS = 6
"""Rounds of moving a layer or microbatches of a plan."""
POLISHED = 3
"""Plans that are so improved."""
MOST_CHUNKS = 16
"""Layers are moved in pipelines of at most so many chunks."""
TIE = 1e-9
"""Steps that differ by a smaller share are as long."""

Split = tuple[object, ...]
"""Of plans that agree in this, only the best is ranked."""


@dataclass(slots=True)
class MixedSearch:
    """One search over several groups at once, and what it counts."""

    job: TrainingJob
    cluster: MixedCluster
    stack: SoftwareStack
    fixed: Mapping[str, int | str | bool]
    max_micro_batch: int | None = None
    exhaustive: bool = False
    num_plans: int = 0
    num_legal: int = 0
    num_bounded: int = 0
    num_dealt: int = 0
    num_priced: int = 0
    _tables: dict[tuple[int, ...], LayerSeconds] = field(default_factory=dict)

    def run(self, on_progress: Progress | None = None) -> list[Estimate]:
        """The best plan of every split, best first: dealt out by the closed form of their lanes, then walked."""
        frames = [made for tp, cp in self._degrees() if (made := self._frame(tp, cp)) is not None and len(made)]
        dealt: dict[Split, Shares] = {}
        tried: dict[Split, int] = {}
        fastest = np.inf
        for bound, skeleton, plan in _in_order(frames):
            if self.num_dealt >= MOST_DEALT or bound > HOPELESS * fastest:
                break
            split = (*_split(plan, skeleton.way), skeleton.lanes[0][1][0])
            tried[split] = tried.get(split, 0) + 1
            if tried[split] > (DEALT_OF_SPLIT if split in dealt else TRIED_OF_SPLIT):
                continue
            found = self.dealt_out(skeleton, plan)
            if found and found.step_seconds < (dealt[split].step_seconds if split in dealt else np.inf):
                dealt[split] = found
                fastest = min(fastest, found.step_seconds)
            if on_progress:
                on_progress("deal out", self.num_dealt, MOST_DEALT)
        priced = []
        for one in sorted(dealt.values(), key=lambda one: one.step_seconds)[:MOST_PRICED]:
            priced.append(self.priced(one.plan))
            if on_progress:
                on_progress("estimate", len(priced), min(len(dealt), MOST_PRICED))
        ranked = sorted(priced, key=_step)
        return sorted([*(self.polished(one) for one in ranked[:POLISHED]), *ranked[POLISHED:]], key=_step)

    def alone(self, top: int) -> dict[str, Answer]:
        """The search of each group by itself, by the group's name."""
        return {
            group.name: alike.search(
                self.job, group.cluster, self.stack, fixed=self._held, top=top, max_micro_batch=self.max_micro_batch,
                exhaustive=self.exhaustive,
            )
            for group in self.cluster.groups
        }  # fmt: skip

    @property
    def _held(self) -> dict[str, int | str | bool]:
        """Fields held to a value, but for those that the search finds."""
        return {name: value for name, value in self.fixed.items() if name not in _FOUND}

    def _degrees(self) -> Iterator[tuple[int, int]]:
        """Tensor- and context-parallel degrees that lie within nodes and groups."""
        model, length = self.job.model, self.job.sequence_length
        is_transformer = isinstance(model, TransformerShape)
        tokens = FEWEST_TOKENS_PER_CONTEXT_RANK if self.exhaustive else MIN_TOKENS_PER_CONTEXT_RANK
        widest = min(group.cluster.devices_per_node for group in self.cluster.groups)
        smallest = min(group.cluster.num_devices for group in self.cluster.groups)
        for tp in divisors(widest) if is_transformer else [1]:
            for cp in divisors(smallest // tp) if is_transformer else [1]:
                held = self.fixed.get("tp", tp) == tp and self.fixed.get("cp", cp) == cp
                if held and (cp == 1 or cp <= length // tokens):
                    yield tp, cp

    def _frame(self, tp: int, cp: int) -> Frame | None:
        choices = Choices(
            self.job, self.cluster, self.stack, codes_of(self._held), self.max_micro_batch, self.exhaustive
        )
        found = frame(tp, cp, choices)
        if found is not None:
            self.num_plans += found.num_plans
            self.num_legal += found.num_legal
            self.num_bounded += len(found)
        return found

    def dealt_out(self, skeleton: Skeleton, plan: Plan) -> Shares | None:
        """`plan` with layers and microbatches dealt out; None where no such plan is legal and fits."""
        self.num_dealt += 1
        table = self._table(plan)
        for limited in (False, True):
            layouts = balanced_layouts(plan, skeleton.lanes, table, self.job, self.cluster, self.stack, limited=limited)
            shares = [
                shared_out(replace(plan, layout=layout), skeleton.lanes, self.job, self.cluster, self.stack)
                for layout in layouts
            ]
            for one in sorted((one for one in shares if one is not None), key=lambda one: one.step_seconds):
                if self._fits(one.plan):
                    return one
        return None

    def _fits(self, plan: Plan) -> bool:
        """Whether a whole plan is legal and leaves every rank some memory."""
        if check_placed(plan, self.job, self.cluster):
            return False
        return tightest_seat(plan, self.job, self.cluster, self.stack).headroom_bytes >= 0.0

    def _table(self, plan: Plan) -> LayerSeconds:
        grid = PlanGrid.of([plan])
        key = tuple(int(getattr(grid, name)[0]) for name in WORK_COLUMNS)
        if key not in self._tables:
            self._tables[key] = LayerSeconds.of(plan, self.job, self.cluster, self.stack)
        return self._tables[key]

    def priced(self, plan: Plan) -> Estimate:
        """A whole plan, walked."""
        self.num_priced += 1
        return price(plan, self.job, self.cluster, self.stack)

    def polished(self, best: Estimate) -> Estimate:
        """The best plan after moves of one layer between neighbours, or of microbatches between lanes, that help."""
        for _ in range(MOST_ROUNDS):
            assert isinstance(best.plan, Plan)
            moved = [self.priced(plan) for plan in _moves(best.plan, self.job) if self._fits(plan)]
            better = min(moved, key=_step, default=best)
            if float(better.step_seconds) >= float(best.step_seconds) * (1.0 - TIE):
                return best
            best = better
        return best


def _split(plan: Plan, way: str) -> Split:
    return (way, plan.tp, plan.pp, plan.cp, plan.ep)


def _step(one: Estimate) -> float:
    return float(one.step_seconds)


def _in_order(frames: Sequence[Frame]) -> Iterator[tuple[float, Skeleton, Plan]]:
    """Candidates of all frames, those of the lowest bounds first."""
    if not frames:
        return
    bound = np.concatenate([one.bound_seconds for one in frames])
    frame_of = np.repeat(np.arange(len(frames)), [len(one) for one in frames])
    place = np.concatenate([np.arange(len(one)) for one in frames])
    for row in np.argsort(bound, kind="stable"):
        yield (float(bound[row]), *frames[frame_of[row]].at(int(place[row])))


def _moves(plan: Plan, job: TrainingJob) -> Iterator[Plan]:
    """Plans that differ in one layer of two neighbouring chunks, or in microbatches of two lanes."""
    chunks = plan.pp * plan.vp
    layout = list(plan.layout or even_counts(job, chunks))
    for chunk in range(chunks - 1 if chunks <= MOST_CHUNKS else 0):
        for gives, takes in ((chunk, chunk + 1), (chunk + 1, chunk)):
            changed = list(layout)
            changed[gives] -= 1
            changed[takes] += 1
            if min(changed[1:-1], default=1) >= 1 and min(changed) >= 0:
                yield replace(plan, layout=tuple(changed))
    for one, gives_lane in enumerate(plan.placement):
        for other, takes_lane in enumerate(plan.placement):
            less, rest = divmod(takes_lane.num_replicas, gives_lane.num_replicas)
            if one != other and not rest and gives_lane.num_microbatches > less:
                lanes = list(plan.placement)
                lanes[one] = gives_lane._replace(num_microbatches=gives_lane.num_microbatches - less)
                lanes[other] = takes_lane._replace(num_microbatches=takes_lane.num_microbatches + 1)
                yield replace(plan, placement=tuple(lanes))


def search_any(
    job: TrainingJob, cluster: AnyCluster, stack: SoftwareStack, *, wants_front: bool = False, **asked: Any
) -> Answer:
    """The search of a cluster of any kind; `asked` are the arguments of `planner.choose.search.search`.

    Raises ValueError for what is not known of several groups of nodes.
    """
    if isinstance(cluster, Cluster):
        return alike.search(job, cluster, stack, wants_front=wants_front, **asked)
    if wants_front:
        raise ValueError(f"pareto: devices of {cluster.name} differ in memory; rank by --objective memory instead")
    if asked.pop("dollars", None) is not None or asked.get("objective") == "dollars":
        raise ValueError(f"objective: no one price is of all devices of {cluster.name}; rank by time or memory")
    return search_mixed(job, cluster, stack, **asked)


def search_mixed(
    job: TrainingJob,
    cluster: MixedCluster,
    stack: SoftwareStack,
    *,
    fixed: Mapping[str, int | str | bool] | None = None,
    top: int = 10,
    max_micro_batch: int | None = None,
    exhaustive: bool = False,
    objective: Objective = "time",
    requirements: Sequence[Requirement] = (),
    simulate: Simulate | None = None,
    on_progress: Progress | None = None,
) -> Answer:
    """As `planner.choose.search.search`, on several groups of nodes; devices may be left idle.

    A placement in `fixed` holds families: only plans that lie as it says. Raises ValueError for a requirement that has
    no meaning here.
    """
    started = time.perf_counter()
    _check_requirements(requirements, fixed or {})
    look = MixedSearch(job, cluster, stack, fixed or {}, max_micro_batch, exhaustive)
    found = look.run(on_progress)
    alone = look.alone(top)
    for name, answer in alone.items():
        found += [price(_placed_on(name, one.plan, job), job, cluster, stack) for one in answer.candidates]
    kept = [one for one in found if _meets(one, requirements, job, cluster, stack)]
    kept.sort(key=lambda one: float(one.step_seconds if objective == "time" else one.memory.peak_bytes))
    ranked = _ranked(_best_of_each_split(kept)[:top], simulate, objective, on_progress)
    each = list(alone.values())
    return Answer(
        candidates=ranked,
        num_splits=sum(one.num_splits for one in each) + len({one.plan for one in found}),
        num_plans=look.num_plans + sum(one.num_plans for one in each),
        num_legal=look.num_legal + sum(one.num_legal for one in each),
        num_fitting=look.num_bounded + sum(one.num_fitting for one in each),
        num_estimated=look.num_priced + sum(one.num_estimated for one in each),
        rejected=dict(sum((Counter(one.rejected) for one in each), Counter())),
        unmet={},
        num_too_slow=look.num_bounded - look.num_priced + sum(one.num_too_slow for one in each),
        nearest_misses=() if ranked else tuple(miss for one in each for miss in one.nearest_misses),
        front=(),
        elapsed_seconds=time.perf_counter() - started,
        ways=_ways(kept),
    )


def _placed_on(group: str, plan: Plan, job: TrainingJob) -> Plan:
    """A plan of one group alone as a plan of the whole cluster, whose other devices are idle."""
    lane = Lane(plan.dp, plan.num_microbatches(job.global_batch), (group,) * plan.pp)
    return replace(plan, placement=(lane,))


def _check_requirements(requirements: Sequence[Requirement], fixed: Mapping[str, int | str | bool]) -> None:
    for one in requirements:
        if one.name in _ONE_CLUSTER:
            raise ValueError(
                f"require: {one.name} is not told apart by groups of nodes; use step, memory or plan fields"
            )
    for name, usual in _FOUND.items():
        if fixed.get(name, usual) not in ("auto", usual):
            raise ValueError(
                f"fix: {name}={fixed[name]} is found by searches on several groups; price one with `meshwise estimate`"
            )


_ONE_CLUSTER = frozenset({"mfu", "microbatches"})
"""Figures of requirements that are those of equal devices and equal replicas."""
_FOUND = {"placement": "auto", "layout": "even", "order": USUAL_ORDER}
"""Plan fields that cannot be held, and the only value they may be given."""


def _meets(
    one: Estimate, requirements: Sequence[Requirement], job: TrainingJob, cluster: MixedCluster, stack: SoftwareStack
) -> bool:
    assert isinstance(one.plan, Plan)
    plans, on = PlanGrid.of([one.plan]), Scenario(job, home_of(one.plan, job, cluster, stack), stack)
    prices = {"plan": None, "memory": one.memory.peak_bytes, "time": one.step_seconds}
    return all(bool(np.all(rule.holds(plans, prices[rule.needs], on))) for rule in requirements)


def _best_of_each_split(kept: Sequence[Estimate]) -> list[Estimate]:
    """The first of each split, in their order."""
    found: dict[Split, Estimate] = {}
    for one in kept:
        assert isinstance(one.plan, Plan)
        found.setdefault(_split(one.plan, way_of(one.plan.placement)), one)
    return list(found.values())


def _ways(kept: Sequence[Estimate]) -> tuple[Candidate, ...]:
    """The fastest plan of each way to lie on the groups, by estimate, fastest first, and why it lost."""
    best: dict[str, Candidate] = {}
    for one in sorted(kept, key=_step):
        assert isinstance(one.plan, Plan)
        best.setdefault(way_of(one.plan.placement), Candidate(one.plan, one, None, ""))
    return with_reasons(list(best.values()), "time") if best else ()


def _ranked(
    kept: Sequence[Estimate], simulate: Simulate | None, objective: Objective, on_progress: Progress | None
) -> tuple[Candidate, ...]:
    found = []
    for done, one in enumerate(kept):
        assert isinstance(one.plan, Plan)
        found.append(Candidate(one.plan, one, simulate(one.plan) if simulate else None, ""))
        if on_progress and simulate:
            on_progress("simulate", done + 1, len(kept))
    if objective == "time":
        found.sort(key=lambda candidate: float(candidate.step_seconds))
    return with_reasons(found, objective)
