"""What a search turns: every plan field beside the degrees of a split, with its choices, declared once.

A knob is one function, registered with the fields it sets. Fields that only make sense together (a schedule and
its virtual stages) are one knob. A plan field without a knob keeps `Plan`'s default unless it is held fixed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from planner.choose.recompute_rules import modules_of
from planner.cost.groups import axes_within
from planner.order import ORDER_NAMES, USUAL_ORDER
from planner.plan import SCHEDULE_NAMES, PlanGrid
from planner.recompute import Module, Recompute
from planner.work.layers import divides_evenly, most_chunks, num_blocks
from planner.work.schedules import SCHEDULES
from profiles.cluster import Cluster
from profiles.model import LayerList, TransformerShape
from profiles.workload import TrainingJob

MAX_SEQUENCES, MAX_SAMPLES = 16, 256
"""Largest microbatch a search looks at unless told: of sequences, and of the samples of a list of layers."""
MOST_UNEVEN_CHUNKS = 8
"""Most chunks a rank that are offered where they cannot be equal."""
USUAL_SCHEDULES = ("1f1b", "interleaved")
Choice = tuple[int, ...]
"""One value (as a grid code) for each field of a knob."""


@dataclass(frozen=True, slots=True)
class Split:
    """Degrees whose product is the number of devices."""

    tp: int
    pp: int
    cp: int
    dp: int


@dataclass(frozen=True, slots=True)
class Setting:
    """What choices depend on: a job on a split of a cluster, and how far to look."""

    job: TrainingJob
    cluster: Cluster
    split: Split
    exhaustive: bool = False
    """Whether to offer choices that are rarely the best, or legal but in no one's use."""
    max_micro_batch: int | None = None
    """None: `MAX_SEQUENCES`, or of a list of layers `MAX_SAMPLES`."""
    schedules: tuple[str, ...] = USUAL_SCHEDULES
    """Schedules that the software can run."""
    layout_of: Callable[[int], int] | None = None
    """The code of the best layout for a number of chunks; None where the software knows only even stages."""
    orders: tuple[str, ...] = (USUAL_ORDER,)
    """Orders of ranks that the software knows."""
    chosen: Mapping[str, int] = field(default_factory=dict)
    """Values of the outer knobs, for the choices of the inner ones."""

    @property
    def num_chunks(self) -> int:
        """Model chunks over all stages."""
        return self.split.pp * self.chosen.get("vp", 1)

    @property
    def replicas(self) -> int:
        """Ranks that hold the same part of a dense model."""
        return self.split.dp * self.split.cp

    @property
    def sequences(self) -> int:
        """Sequences a step on one data-parallel rank."""
        return max(1, self.job.global_batch // self.split.dp)


Choices = Callable[[Setting], Iterable[Choice]]


@dataclass(frozen=True, slots=True)
class Knob:
    """Plan fields that are chosen together, and what they may be, the simplest choice first."""

    fields: tuple[str, ...]
    choices: Choices
    is_outer: bool = False
    """Whether the choices of other knobs depend on this one's."""

    def table(self, setting: Setting, fixed: Mapping[str, int]) -> list[Choice]:
        """The choices under `fixed` values, which hold even where no choice offers them."""
        offered = list(dict.fromkeys(self.choices(setting)))
        held = [(place, fixed[field]) for place, field in enumerate(self.fields) if field in fixed]
        matching = [choice for choice in offered if all(choice[place] == value for place, value in held)]
        if matching:
            return matching
        replaced = [list(choice) for choice in offered]
        for place, value in held:
            for choice in replaced:
                choice[place] = value
        return list(dict.fromkeys(tuple(choice) for choice in replaced))


KNOBS: list[Knob] = []
"""Every knob. Of plans that tie, the one wins whose earlier knobs stand at simpler choices."""


def knob(*fields: str, is_outer: bool = False) -> Callable[[Choices], Choices]:
    """Register the decorated function as the choices of `fields`."""

    def register(choices: Choices) -> Choices:
        taken = {field for one in KNOBS for field in one.fields} & set(fields)
        assert not taken, f"fields {sorted(taken)} already have a knob"
        KNOBS.append(Knob(fields, choices, is_outer))
        return choices

    return register


def divisors(number: int) -> list[int]:
    """Divisors of a positive integer, ascending."""
    small = [factor for factor in range(1, int(number**0.5) + 1) if number % factor == 0]
    return sorted({*small, *(number // factor for factor in small)})


@knob("ep", "etp")
def _experts(at: Setting) -> Iterable[Choice]:
    """Experts spread over some of a stage's ranks, whole or split as the dense parts are."""
    model, split = at.job.model, at.split
    if not (isinstance(model, TransformerShape) and model.moe):
        return [(1, 1)]
    moe, ranks = model.moe, split.tp * at.replicas
    widths = [etp for etp in sorted({1, split.tp}) if moe.expert_ffn_size % etp == 0]
    return ((ep, etp) for etp in widths for ep in divisors(ranks // etp) if moe.num_experts % ep == 0)


@knob("cp_a2a", "cp_gather")
def _context(at: Setting) -> Iterable[Choice]:
    """A ring of all cp ranks, or an all-to-all of all; an exhaustive search mixes them, and gathers keys."""
    model, split = at.job.model, at.split
    yield 1, 0
    if split.cp == 1 or not isinstance(model, TransformerShape):
        return
    dealt = [degree for degree in divisors(split.cp) if degree == 1 or model.num_kv_heads % (split.tp * degree) == 0]
    yield from ((degree, 0) for degree in dealt if at.exhaustive or degree == split.cp)
    if at.exhaustive:
        yield from ((degree, 1) for degree in dealt if degree < split.cp)


@knob("schedule", "vp", "layout", is_outer=True)
def _schedule(at: Setting) -> Iterable[Choice]:
    """1F1B, then every other schedule with each number of virtual stages that it takes and the layers allow.

    Evenly where the layers divide, and by the best layout where that is uneven.
    """
    plain = SCHEDULE_NAMES.index("1f1b")
    yield plain, 1, 0
    if at.split.pp == 1:
        return
    blocks, pp = num_blocks(at.job.model), at.split.pp
    plenty = 4 * pp
    for code, name in enumerate(SCHEDULE_NAMES):
        if not at.exhaustive and (name == "gpipe" or name not in at.schedules):
            continue  # GPipe has the bubble of 1F1B with more memory
        for vp in range(1, max(1, most_chunks(at.job.model) // pp) + 1):
            takes = all(rule.holds(pp, plenty, vp) for rule in SCHEDULES[name].requirements)
            even = bool(divides_evenly(blocks, pp * vp))
            if takes and (vp == 1 or even):
                yield code, vp, 0
            uneven = vp == 1 or (not even and vp <= MOST_UNEVEN_CHUNKS)
            if takes and uneven and at.layout_of is not None:
                yield code, vp, at.layout_of(pp * vp)


@knob("order", is_outer=True)
def _order(at: Setting) -> Iterable[Choice]:
    """The orders that the software knows; of those that put the same axes on the same tiers, the first."""
    codes = [code for code, name in enumerate(ORDER_NAMES) if name in at.orders]
    split = at.split
    plans = PlanGrid.product(tp=(split.tp,), pp=(split.pp,), cp=(split.cp,), dp=(split.dp,), order=ORDER_NAMES)
    reach = axes_within(plans.take(np.array(codes)), at.cluster)
    return ((codes[place],) for place in sorted(np.unique(reach, axis=1, return_index=True)[1]))


@knob("recompute", "recompute_modules", "recompute_layers")
def _recompute(at: Setting) -> Iterable[Choice]:
    """No, selective or full recomputation: of the attention core, of what is cheap to run again, of some layers.

    Layers of each chunk are tried in powers of two. An exhaustive search tries every number of them, every module
    alone, and operators.
    """
    core = int(Module.CORE_ATTN)
    available = modules_of(at.job.model)
    yield int(Recompute.NONE), core, 0
    if available:
        yield int(Recompute.SELECTIVE), core, 0
    cheap = available & (Module.LAYERNORM | Module.MOE_ACT | Module.MLA_UP_PROJ)
    if cheap:
        yield int(Recompute.SELECTIVE), int(cheap), 0
    yield int(Recompute.FULL), core, 0
    most = num_blocks(at.job.model) // at.num_chunks - 1
    if at.exhaustive:
        yield from ((int(Recompute.SELECTIVE), int(module), 0) for module in Module if module in available)
        if available:
            yield int(Recompute.OPERATORS), core, 0
        yield from ((int(Recompute.FULL), core, layers) for layers in range(1, most + 1))
    else:
        powers = (2**power for power in range(max(most, 0).bit_length()))
        yield from ((int(Recompute.FULL), core, layers) for layers in powers if layers <= most)


@knob("zero_stage", "reshard_after_forward", "dp_replicate")
def _sharding(at: Setting) -> Iterable[Choice]:
    """Nothing, the optimizer, or everything; over all replicas, or everything within a node.

    Under a pipeline, parameters that stay gathered take the time and nearly the memory of a sharded optimizer.
    """
    if at.job.exchange.is_local:
        yield from ((stage, 1, groups) for stage in (0, 1) for groups in divisors(at.split.dp) if groups > 1)
        return
    yield 0, 1, 1
    if at.replicas == 1 or at.job.exchange.has_servers:
        return
    yield 1, 1, 1
    dp, is_one_stage = at.split.dp, at.split.pp == 1
    yield 3, 1, 1
    if is_one_stage:
        yield 3, 0, 1
        nodes = at.split.tp * at.replicas // at.cluster.devices_per_node
        if nodes > 1 and dp % nodes == 0:
            yield from ((3, 1, nodes), (3, 0, nodes))
    if at.exhaustive:
        stages = ((1, 1), (2, 1), (3, 1), (3, 0)) if is_one_stage else ((1, 1), (3, 1), (3, 0))
        yield from ((*stage, groups) for stage in stages for groups in divisors(dp) if groups < at.replicas)


@knob("sequence_parallel")
def _sequence_parallel(at: Setting) -> Iterable[Choice]:
    return ((flag,) for flag in ((0, 1) if at.split.tp > 1 else (0,)))


@knob("micro_batch")
def _micro_batch(at: Setting) -> Iterable[Choice]:
    """Sizes that divide what a replica runs in a step into as many microbatches as the schedule takes."""
    usual = MAX_SAMPLES if isinstance(at.job.model, LayerList) else MAX_SEQUENCES
    sizes = [size for size in divisors(at.sequences) if size <= (at.max_micro_batch or usual)]
    name = SCHEDULE_NAMES[at.chosen.get("schedule", SCHEDULE_NAMES.index("1f1b"))]
    rules, vp = SCHEDULES[name].requirements, at.chosen.get("vp", 1)
    fitting = [size for size in sizes if all(rule.holds(at.split.pp, at.sequences // size, vp) for rule in rules)]
    return ((size,) for size in fitting or sizes[:1])
