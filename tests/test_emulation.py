"""Ranks that take turns on cores: the work on a core is conserved, and waiting is filled by the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.breakdown import PARTS, Breakdown
from planner.plan import Plan
from profiles import catalog
from validate import emulation
from validate.emulation import ranks_per_core, taking_turns

seconds = st.floats(0.0, 100.0)


@given(parts=st.fixed_dictionaries({f"{name}_seconds": seconds for name in PARTS}), sharing=st.floats(1.0, 16.0))
def test_work_is_conserved_and_waiting_is_filled(parts: dict[str, float], sharing: float) -> None:
    alone = Breakdown(**parts)
    shared = taking_turns(alone, sharing)
    work = alone.step_seconds - alone.idle_seconds
    assert shared.step_seconds == pytest.approx(max(sharing * work, alone.step_seconds))
    assert shared.step_seconds - shared.idle_seconds == pytest.approx(sharing * work)
    assert 0.0 <= shared.idle_seconds <= alone.idle_seconds + 1e-9 * alone.step_seconds


def test_ranks_share_cores_only_where_there_are_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulation, "num_cores", lambda: 2)
    gpus = catalog.cluster("dgx-h100", 8)
    cores = gpus.model_copy(
        update={"accelerator": gpus.accelerator.model_copy(update={"kind": "cpu"}), "num_devices": 2}
    )
    assert ranks_per_core(Plan(dp=4), gpus) == 1.0
    assert ranks_per_core(Plan(dp=2), cores) == 1.0
    assert ranks_per_core(Plan(dp=2, tp=2), cores) == 2.0
    assert ranks_per_core(Plan(dp=4), cores.model_copy(update={"num_devices": 4})) == 1.0
