"""A run that this machine has no room for is refused before it starts."""

import pytest

from planner.plan import Plan
from profiles import catalog
from profiles.units import GIB
from tests.features import GPT, job
from validate import room
from validate.launch import LaunchError

STACK = catalog.software("pytorch-eager-cpu")


def test_ranks_must_fit_into_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available_bytes", lambda: 1.0 * GIB)
    monkeypatch.setattr(room, "num_gpus", lambda: 0)
    room.check_room(job(), Plan(dp=2), STACK)
    with pytest.raises(LaunchError, match=r"memory: 4 ranks need about 1.3 GiB here and 1.0 GiB are free"):
        room.check_room(job(), Plan(dp=4), STACK)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    room.check_room(job(), Plan(dp=4), STACK)
    wide = GPT.model_copy(update={"hidden_size": 8192, "ffn_size": 32768})
    with pytest.raises(LaunchError, match="memory: 1 ranks need about"):
        room.check_room(job(wide), Plan(), STACK)


@pytest.mark.parametrize(("gpus", "free"), [(4, 0.0), (0, None)])
def test_gpus_and_silent_kernels_are_not_judged(gpus: int, free: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available_bytes", lambda: free)
    monkeypatch.setattr(room, "num_gpus", lambda: gpus)
    room.check_room(job(), Plan(dp=4), STACK)


def test_this_machine_says_what_is_free() -> None:
    found = room.available_bytes()
    assert found is None or found > 0.0
