"""Ranks of one machine keep to their own cores; those of several machines stay where they were put."""

import os

import pytest

torch = pytest.importorskip("torch")

from validate.measure import settle_process  # noqa: E402

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")


def cores_taken(monkeypatch: pytest.MonkeyPatch, rank: int, num_local: int, num_ranks: int, device: str = "cpu"):
    """The cores a rank binds itself to on a machine with cores 4 to 11; None where it binds itself to none."""
    taken: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4, 12)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: taken.append(set(cores)))
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: None)
    for name, value in {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": num_local, "WORLD_SIZE": num_ranks}.items():
        monkeypatch.setenv(name, str(value))
    threads = torch.get_num_threads()
    settle_process(torch.device(device))
    torch.set_num_threads(threads)
    return taken[-1] if taken else None


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
def test_ranks_share_out_the_cores(monkeypatch: pytest.MonkeyPatch, num_ranks: int) -> None:
    shares = [cores_taken(monkeypatch, rank, num_ranks, num_ranks) for rank in range(num_ranks)]
    assert all(len(share) == 8 // num_ranks for share in shares)
    assert len(set.union(*shares)) == sum(map(len, shares))
    assert set.union(*shares) <= set(range(4, 12))


def test_ranks_beyond_the_cores_take_turns_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = [cores_taken(monkeypatch, rank, 16, 16) for rank in range(16)]
    assert [sorted(share) for share in shares] == [[4 + rank % 8] for rank in range(16)]


@pytest.mark.parametrize(("num_local", "num_ranks", "device"), [(2, 4, "cpu"), (1, 1, "cpu"), (2, 2, "cuda")])
def test_others_are_left_alone(monkeypatch: pytest.MonkeyPatch, num_local: int, num_ranks: int, device: str) -> None:
    assert cores_taken(monkeypatch, 0, num_local, num_ranks, device) is None
