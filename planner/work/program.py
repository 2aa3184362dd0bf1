"""The step program: what every rank of one pipeline does, action by action. The shared representation.

The planner prices it, the simulator plays it, validate runs it. Ranks that differ only in their tp, cp, ep or
dp coordinate do the same work, so one list of actions stands for all ranks of a pipeline position.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from planner.plan import Plan
from planner.work.actions import (
    COMPUTE,
    FREES,
    PASSES,
    RECEIVES,
    SENDS,
    SENDS_GRADIENT,
    Action,
    Kind,
    matching_send,
)
from planner.work.ops import Message, Op
from planner.work.schedules import SCHEDULES, Ranks
from planner.work.sharding import KEPT_GATHERED, gathers_in_backward, gathers_in_forward, reduces_in_backward

__all__ = [
    "COMPUTE", "RECEIVES", "SENDS", "Action", "Counted", "Kind", "StepProgram", "Work", "build_actions", "check",
    "grid", "matching_send", "peak_activation_bytes", "peak_activations", "program_bytes", "program_flops",
    "with_messages",
]  # fmt: skip

Counted = tuple[tuple[Op, float], ...]
"""Operations, each with how many times it runs."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an action runs: `recomputed` first (a backward only), then `ops`, in order."""

    ops: Counted = ()
    recomputed: Counted = ()


@dataclass(frozen=True, slots=True)
class StepProgram:
    """The actions of every pipeline rank, and the work behind each (kind, chunk)."""

    plan: Plan
    num_microbatches: int
    ranks: Ranks
    """By pipeline rank, in program order."""
    work: Mapping[tuple[Kind, int], Work]
    """Work of one action, by (kind, chunk). SEND actions carry their message; RECV actions carry none."""
    activation_bytes: tuple[float, ...] = ()
    """Bytes one microbatch keeps between its forward and its backward, by chunk."""
    num_gradient_buckets: tuple[int, ...] = field(default=())
    """Buckets a chunk's gradient reduction is cut into, by chunk."""
    is_asynchronous: bool = False
    """Nothing waits for gradients to be reduced or parameters to be gathered but the next step's exchange."""
    layers: tuple[tuple[str, ...], ...] = ()
    """Kinds of the layers of every chunk in forward order, where forwards or backwards carry messages by layer."""
    layer_work: Mapping[tuple[Kind, str], Work] = field(default_factory=dict)
    """Work of one layer of a kind, by (action, kind): its passes, its parameter gather and gradient reduction."""

    def __str__(self) -> str:
        return grid(self.ranks)


def build_actions(plan: Plan, num_microbatches: int, *, has_experts: bool = False, has_servers: bool = False) -> Ranks:
    """Everything the pipeline ranks of `plan` do in one step, in program order.

    Gradients are reduced where dp and cp replicate parameters, or where etp and ep leave replicas of experts;
    parameters are gathered from their shards, or from servers.
    Raises ValueError when the schedule's requirements do not hold.
    """
    ranks = SCHEDULES[plan.schedule].actions(plan.pp, num_microbatches, plan.vp)
    experts_replicated = has_experts and plan.tp * plan.cp * plan.dp > plan.etp * plan.ep
    replicated = plan.dp * plan.cp > 1 or experts_replicated
    mirrored = SCHEDULES[plan.schedule].placement.num_copies > 1
    reduces_once = not reduces_in_backward(plan)
    gathers_once = has_servers or (plan.zero_stage >= 1 and not gathers_in_forward(plan))
    return with_messages(ranks, reduces=(replicated or mirrored) and reduces_once, gathers=replicated and gathers_once)


def with_messages(ranks: Ranks, *, reduces: bool, gathers: bool) -> Ranks:
    """Add to the forwards and backwards of a schedule what ties the ranks together, and the optimizer.

    A RECV stands before the action that needs it and a SEND after the one that made it, wherever a microbatch
    passes between chunks that lie on different ranks. With `reduces`, each chunk's gradient reduction follows
    its last backward; every chunk ends in its optimizer STEP and, with `gathers`, the GATHER of its parameters.
    """
    rank_of = {(action.chunk, action.microbatch): rank for rank, actions in enumerate(ranks) for action in actions}
    return tuple(tuple(_rank_messages(actions, rank_of, reduces, gathers)) for actions in ranks)


def _rank_messages(
    actions: tuple[Action, ...], rank_of: Mapping[tuple[int, int], int], reduces: bool, gathers: bool
) -> Iterator[Action]:
    last_backward = {action.chunk: action for action in actions if action.kind in FREES}
    for action in actions:
        chunk, microbatch = action.chunk, action.microbatch
        own = rank_of[chunk, microbatch]
        is_forward, carries = action.kind is Kind.FORWARD, action.kind is not Kind.BACKWARD_WEIGHT
        before, after = (chunk - 1, chunk + 1) if is_forward else (chunk + 1, chunk - 1)
        if carries and rank_of.get((before, microbatch), own) != own:
            yield Action(Kind.RECV_FORWARD if is_forward else Kind.RECV_BACKWARD, chunk, microbatch)
        yield action
        if carries and rank_of.get((after, microbatch), own) != own:
            yield Action(Kind.SEND_FORWARD if is_forward else Kind.SEND_BACKWARD, chunk, microbatch)
        if reduces and action == last_backward.get(chunk):
            yield Action(Kind.REDUCE_GRADIENTS, chunk)
    for chunk in sorted(last_backward):
        yield Action(Kind.OPTIMIZER, chunk)
    if gathers:
        for chunk in sorted(last_backward):
            yield Action(Kind.GATHER_PARAMETERS, chunk)


def check(program: StepProgram) -> None:
    """Prove that `program` can be run: every action once and in its place, every message matched, no deadlock.

    Sends are buffered and a receive blocks. Raises ValueError naming the rank and the action at fault.
    """
    plan = program.plan
    if len(program.ranks) != plan.pp:
        raise ValueError(f"ranks: the program has {len(program.ranks)}, its plan says pp={plan.pp}")
    due = _due(program)
    for rank, actions in enumerate(program.ranks):
        place = _placed(rank, actions)
        _check_presence(rank, place, due[rank])
        _check_order(rank, place, program.num_microbatches)
    _, reached = _dry_run(program.ranks)
    for rank, (actions, position) in enumerate(zip(program.ranks, reached, strict=True)):
        if position < len(actions):
            stuck = actions[position]
            raise ValueError(f"rank {rank}: deadlock at {stuck}, {matching_send(stuck)} is never reached")


def _placed(rank: int, actions: tuple[Action, ...]) -> dict[Action, int]:
    place: dict[Action, int] = {}
    for index, action in enumerate(actions):
        if action in place:
            raise ValueError(f"rank {rank}: {action} occurs twice, every action must occur once")
        place[action] = index
    return place


def _due(program: StepProgram) -> list[set[Action]]:
    """Forwards, backwards, sends and receives that each rank owes; a backward pass counts as one BACKWARD."""
    plan, placement = program.plan, SCHEDULES[program.plan.schedule].placement
    ranks = placement.ranks(plan.pp, plan.vp)
    last = placement.num_pieces(plan.pp, plan.vp) - 1
    due: list[set[Action]] = [set() for _ in range(plan.pp)]
    for chunk, (rank, piece) in enumerate(zip(ranks, placement.pieces(plan.pp, plan.vp), strict=True)):
        kinds = [Kind.FORWARD, Kind.BACKWARD]
        if piece > 0 and ranks[chunk - 1] != rank:
            kinds += [Kind.RECV_FORWARD, Kind.SEND_BACKWARD]
        if piece < last and ranks[chunk + 1] != rank:
            kinds += [Kind.SEND_FORWARD, Kind.RECV_BACKWARD]
        microbatches = placement.microbatches(chunk, plan.pp, plan.vp, program.num_microbatches)
        due[rank] |= {Action(kind, chunk, microbatch) for kind in kinds for microbatch in microbatches}
    return due


def _check_presence(rank: int, place: Mapping[Action, int], due: set[Action]) -> None:
    chunks = {action.chunk for action in due}
    halves = {action for action in place if action.kind in (Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT)}
    for half in halves:
        other = Kind.BACKWARD_WEIGHT if half.kind is Kind.BACKWARD_INPUT else Kind.BACKWARD_INPUT
        if half._replace(kind=other) not in halves:
            raise ValueError(f"rank {rank}: {half._replace(kind=other)} is missing, {half} is half a backward pass")
    done = {action._replace(kind=Kind.BACKWARD) if action in halves else action for action in place}
    if len(done) != len(place) - len(halves) // 2:
        raise ValueError(f"rank {rank}: a backward pass runs both whole and in two parts, one of them is due")
    if missing := due - done:
        raise ValueError(f"rank {rank}: {min(missing)} is missing, every microbatch must run on every chunk")
    strange = {action for action in done - due if action.kind not in _ONCE or action.chunk not in chunks}
    if strange:
        raise ValueError(f"rank {rank}: {min(strange)} does not belong there, its chunks are {sorted(chunks)}")


_ONCE = frozenset({Kind.REDUCE_GRADIENTS, Kind.OPTIMIZER, Kind.GATHER_PARAMETERS})
"""Actions of a chunk that belong to no microbatch."""


def _check_order(rank: int, place: Mapping[Action, int], num_microbatches: int) -> None:
    for action, index in place.items():
        for before in _predecessors(action, num_microbatches):
            if place.get(before, -1) > index:
                raise ValueError(f"rank {rank}: {action} stands before {before}, it must follow it")


def _predecessors(action: Action, num_microbatches: int) -> Iterable[Action]:
    """The actions of the same chunk that come before `action` where they occur."""
    chunk, microbatch = action.chunk, action.microbatch
    ends = (Action(kind, chunk, index) for kind in sorted(FREES) for index in range(num_microbatches))
    match action.kind:
        case Kind.FORWARD:
            return (Action(Kind.RECV_FORWARD, chunk, microbatch), Action(Kind.FORWARD, chunk - 1, microbatch))
        case Kind.BACKWARD | Kind.BACKWARD_INPUT:
            after = (Action(kind, chunk + 1, microbatch) for kind in sorted(SENDS_GRADIENT))
            return (Action(Kind.FORWARD, chunk, microbatch), Action(Kind.RECV_BACKWARD, chunk, microbatch), *after)
        case Kind.BACKWARD_WEIGHT:
            return (Action(Kind.BACKWARD_INPUT, chunk, microbatch),)
        case Kind.SEND_FORWARD:
            return (Action(Kind.FORWARD, chunk, microbatch),)
        case Kind.SEND_BACKWARD:
            return tuple(Action(kind, chunk, microbatch) for kind in sorted(SENDS_GRADIENT))
        case Kind.REDUCE_GRADIENTS:
            return ends
        case Kind.OPTIMIZER:
            return (*ends, Action(Kind.REDUCE_GRADIENTS, chunk))
        case Kind.GATHER_PARAMETERS:
            return (Action(Kind.OPTIMIZER, chunk),)
    return ()


def _dry_run(ranks: Ranks) -> tuple[list[list[int]], list[int]]:
    """Play `ranks` with forwards and backwards (or their parts) of one slot and everything else of none.

    Returns the slot of every action reached and the number of actions reached, by rank; a rank that did not
    reach its end is blocked in a receive.
    """
    slots: list[list[int]] = [[] for _ in ranks]
    clocks = [0] * len(ranks)
    sent: dict[Action, int] = {}
    progress = True
    while progress:
        progress = False
        for rank, actions in enumerate(ranks):
            for action in actions[len(slots[rank]) :]:
                if action.kind in RECEIVES:
                    if (send := matching_send(action)) not in sent:
                        break
                    clocks[rank] = max(clocks[rank], sent[send])
                slots[rank].append(clocks[rank])
                clocks[rank] += action.kind in PASSES
                if action.kind in SENDS:
                    sent[action] = clocks[rank]
                progress = True
    return slots, [len(reached) for reached in slots]


def grid(ranks: Ranks) -> str:
    """A table of `ranks` by slots as long as one forward or backward, as far as they run; messages are left out.

    What belongs to no microbatch stands at the end of its rank's row.
    """
    slots, _ = _dry_run(ranks)
    width = max((len(str(action)) for actions in ranks for action in actions if action.kind in PASSES), default=1)
    rows = []
    for rank, actions in enumerate(ranks):
        cells: dict[int, str] = {}
        for action, slot in zip(actions, slots[rank], strict=False):
            if action.kind in PASSES:
                cells[slot] = str(action)
        row = " ".join(cells.get(slot, ".").rjust(width) for slot in range(max(cells, default=-1) + 1))
        ending = " ".join(str(action) for action in actions if action.kind in _ONCE)
        rows.append(f"rank {str(rank).rjust(len(str(len(ranks) - 1)))}  {row}  {ending}".rstrip())
    return "\n".join(rows)


def peak_activations(program: StepProgram) -> tuple[int, ...]:
    """Microbatches, counted by chunk, that each rank holds between forward and backward at its peak."""
    return tuple(int(_peak(actions, lambda chunk: 1.0)) for actions in program.ranks)


def peak_activation_bytes(program: StepProgram) -> tuple[float, ...]:
    """Bytes of activations each rank holds at its peak; 0 where the program does not say `activation_bytes`."""
    held = program.activation_bytes
    return tuple(_peak(actions, lambda chunk: held[chunk] if held else 0.0) for actions in program.ranks)


def _peak(actions: Iterable[Action], size: Callable[[int], float]) -> float:
    held = peak = 0.0
    for action in actions:
        if action.kind is Kind.FORWARD:
            held += size(action.chunk)
            peak = max(peak, held)
        elif action.kind in FREES:
            held -= size(action.chunk)
    return peak


def program_flops(program: StepProgram) -> float:
    """FLOPs one step runs on all pipeline ranks together (one tensor-parallel rank of each), recomputed ones too."""
    return sum(
        count * op.flops
        for action, work in _every_work(program)
        for op, count in (*work.recomputed, *work.ops)
        if not isinstance(op, Message)
    )


def program_bytes(program: StepProgram) -> dict[str, float]:
    """Message bytes of one step by axis, over all pipeline ranks, in the sizes of `planner.work.ops.Message`."""
    totals: dict[str, float] = {}
    for _, work in _every_work(program):
        for op, count in (*work.recomputed, *work.ops):
            if isinstance(op, Message):
                totals[op.axis] = totals.get(op.axis, 0.0) + count * op.num_bytes
    return totals


def _every_work(program: StepProgram) -> Iterator[tuple[Action, Work]]:
    for actions in program.ranks:
        for action in actions:
            yield action, program.work.get((action.kind, action.chunk), Work())
            for kind, layer in layer_messages(program, action):
                yield action, program.layer_work[kind, layer]


def layer_messages(program: StepProgram, action: Action) -> Iterator[tuple[Kind, str]]:
    """Gathers and reductions that the layers of a forward or backward carry, by (action, kind of the layer)."""
    plan = program.plan
    if not program.layers or action.kind not in (Kind.FORWARD, Kind.BACKWARD):
        return
    is_forward = action.kind is Kind.FORWARD
    for layer in program.layers[action.chunk]:
        again = gathers_in_backward(plan) and layer not in KEPT_GATHERED
        if gathers_in_forward(plan) if is_forward else again:
            yield Kind.GATHER_PARAMETERS if is_forward else Kind.GATHER_AGAIN, layer
        if not is_forward and reduces_in_backward(plan):
            yield Kind.REDUCE_GRADIENTS, layer
