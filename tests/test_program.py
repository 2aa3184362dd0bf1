"""Step programs: what is added to a schedule, what the check refuses, and what the totals add up to."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.plan import Plan
from planner.work.actions import Action, Kind, matching_send
from planner.work.ops import Elementwise, Gemm, Message
from planner.work.program import (
    RECEIVES,
    SENDS,
    StepProgram,
    Work,
    build_actions,
    check,
    peak_activation_bytes,
    peak_activations,
    program_bytes,
    program_flops,
)
from tests.played import Shape, shapes


@given(shapes(), st.booleans(), st.integers(0, 1))
def test_a_built_program_passes_its_check(shape: Shape, is_replicated: bool, zero_stage: int) -> None:
    check(shape.program(dp=2 if is_replicated else 1, zero_stage=zero_stage))


@given(shapes())
def test_every_send_has_its_receive_on_another_rank(shape: Shape) -> None:
    ranks = shape.program().ranks
    rank_of = {action: rank for rank, actions in enumerate(ranks) for action in actions}
    sends = {action for action in rank_of if action.kind in SENDS}
    receives = {action for action in rank_of if action.kind in RECEIVES}
    assert {matching_send(receive) for receive in receives} == sends
    assert all(rank_of[receive] != rank_of[matching_send(receive)] for receive in receives)
    places = itertools.pairwise(shape.ranks[: shape.num_stages * shape.vp])
    boundaries = sum(one != other for one, other in places)  # of the one copy that a microbatch passes
    assert len(sends) == 2 * boundaries * shape.num_microbatches


@pytest.mark.parametrize(
    ("plan", "kinds"),
    [
        (Plan(), {Kind.OPTIMIZER}),
        (Plan(dp=2), {Kind.REDUCE_GRADIENTS, Kind.OPTIMIZER}),
        (Plan(cp=2), {Kind.REDUCE_GRADIENTS, Kind.OPTIMIZER}),
        (Plan(dp=2, zero_stage=1), {Kind.REDUCE_GRADIENTS, Kind.OPTIMIZER, Kind.GATHER_PARAMETERS}),
        (Plan(zero_stage=1), {Kind.OPTIMIZER}),
        (Plan(pp=2, tp=4), {Kind.OPTIMIZER, *SENDS, *RECEIVES}),
    ],
    ids=lambda value: str(value) if isinstance(value, Plan) else " ".join(sorted(value)),
)
def test_communication_follows_the_plan(plan: Plan, kinds: set[Kind]) -> None:
    ranks = build_actions(plan, 4)
    told = {action.kind for actions in ranks for action in actions}
    assert told == kinds | {Kind.FORWARD, Kind.BACKWARD}


def test_gradients_of_a_chunk_are_reduced_after_its_last_backward() -> None:
    actions = build_actions(Plan(pp=2, vp=2, dp=2, schedule="interleaved"), 4)[0]
    for chunk in (0, 2):
        last = max(index for index, a in enumerate(actions) if a.kind is Kind.BACKWARD and a.chunk == chunk)
        following = [action for action in actions[last + 1 :] if action.kind not in SENDS]
        assert following[0] == Action(Kind.REDUCE_GRADIENTS, chunk)


def test_it_prints_as_a_grid() -> None:
    assert str(Shape("1f1b", 3, 3).program(dp=2)).splitlines() == [
        "rank 0  0F0 0F1 0F2   .   . 0B0   . 0B1   . 0B2  0REDUCE 0STEP",
        "rank 1    . 1F0 1F1   . 1B0 1F2 1B1   . 1B2  1REDUCE 1STEP",
        "rank 2    .   . 2F0 2B0 2F1 2B1 2F2 2B2  2REDUCE 2STEP",
    ]


def changed(program: StepProgram, rank: int, actions: list[Action]) -> StepProgram:
    ranks = list(program.ranks)
    ranks[rank] = tuple(actions)
    return replace(program, ranks=tuple(ranks))


@given(shapes(), st.data())
def test_a_program_without_one_of_its_actions_is_refused(shape: Shape, data: st.DataObject) -> None:
    program = shape.program()
    rank = data.draw(st.integers(0, shape.num_stages - 1))
    actions = list(program.ranks[rank])
    index = data.draw(st.sampled_from([i for i, a in enumerate(actions) if a.microbatch >= 0]))
    missing = actions.pop(index)
    with pytest.raises(ValueError, match=f"rank {rank}: {missing} is missing"):
        check(changed(program, rank, actions))


@given(shapes(), st.data())
def test_a_doubled_action_is_refused(shape: Shape, data: st.DataObject) -> None:
    program = shape.program()
    rank = data.draw(st.integers(0, shape.num_stages - 1))
    actions = list(program.ranks[rank])
    doubled = data.draw(st.sampled_from(actions))
    with pytest.raises(ValueError, match=f"rank {rank}: {doubled} occurs twice"):
        check(changed(program, rank, [*actions, doubled]))


def test_a_backward_before_its_forward_is_refused() -> None:
    program = Shape("1f1b", 1, 2).program()
    actions = list(program.ranks[0])
    actions[0], actions[1] = actions[1], actions[0]
    with pytest.raises(ValueError, match="rank 0: 0B0 stands before 0F0"):
        check(changed(program, 0, actions))


def test_an_action_of_another_rank_is_refused() -> None:
    program = Shape("1f1b", 2, 2).program()
    with pytest.raises(ValueError, match="rank 0: 1STEP does not belong there"):
        check(changed(program, 0, [*program.ranks[0], Action(Kind.OPTIMIZER, 1)]))


def test_a_missing_rank_is_refused() -> None:
    program = Shape("1f1b", 2, 2).program()
    with pytest.raises(ValueError, match="has 1, its plan says pp=2"):
        check(replace(program, ranks=program.ranks[:1]))


def test_a_deadlock_is_found() -> None:
    """Rank 0 waits for a backward before it sends the forward that the backward needs."""
    program = Shape("1f1b", 2, 2).program()
    actions = list(program.ranks[0])
    late = actions.index(Action(Kind.SEND_FORWARD, 0, 0))
    send = actions.pop(late)
    actions.insert(actions.index(Action(Kind.BACKWARD, 0, 0)), send)
    with pytest.raises(ValueError, match="rank 0: deadlock at 0RECV_B0, 1SEND_B0 is never reached"):
        check(changed(program, 0, actions))


def test_peaks_count_chunks_and_bytes() -> None:
    program = Shape("interleaved", 2, 4, 2).program()
    assert peak_activations(program) == (5, 3)
    assert peak_activation_bytes(program)[0] == pytest.approx(4 * 100.0 + 1 * 102.0, abs=2.0)
    assert peak_activation_bytes(replace(program, activation_bytes=())) == (0.0, 0.0)


def test_totals_add_up_the_work_of_every_action() -> None:
    gemm, reduce = Gemm(4.0, 5.0, 6.0), Message("tp", "all_reduce", 100.0)
    work = {
        (Kind.FORWARD, 0): Work(((gemm, 2.0), (reduce, 1.0))),
        (Kind.BACKWARD, 0): Work(((gemm, 4.0), (Elementwise(7.0), 1.0)), recomputed=((gemm, 2.0), (reduce, 3.0))),
        (Kind.FORWARD, 1): Work(((gemm, 1.0),)),
        (Kind.SEND_FORWARD, 0): Work(((Message("pp", "send_recv", 10.0), 1.0),)),
    }
    program = replace(Shape("1f1b", 2, 3).program(), work=work)
    assert program_flops(program) == 3 * (2 + 4 + 2 + 1) * 240.0
    assert program_bytes(program) == {"tp": 3 * 400.0, "pp": 30.0}
