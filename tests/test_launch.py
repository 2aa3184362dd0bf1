"""Launching ranks: results by rank, and every way a run can fail ends in one sentence and no process."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from validate.launch import LaunchError, free_port, launch, launch_local, num_cores

pytest.importorskip("torch")

Report = Callable[[str], None]


def body(values: dict[str, Any], report: Report) -> dict[str, Any]:
    """A rank that does as it is told: {"rank": what}; every rank leaves its process id behind."""
    rank = int(os.environ["RANK"])
    Path(values["folder"], f"pid-{rank}").write_text(str(os.getpid()))
    report("working")
    told = values.get(str(rank), "answer")
    if told == "raise":
        raise RuntimeError("boom on purpose\nsecond line")
    if told == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if told == "exit":
        os.write(2, b"last words\n")
        os._exit(7)
    if told == "hang":
        time.sleep(600)
    if told == "time out":
        raise RuntimeError("Timed out waiting 100ms for recv")
    if told == "too much":
        import resource

        import torch

        resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
        torch.zeros(2**34)
    if told == "follow":
        time.sleep(0.3)
        raise RuntimeError("Connection closed by peer")
    return {"rank": rank, "world": os.environ["WORLD_SIZE"]}


def all_reduce(values: dict[str, Any], report: Report) -> dict[str, Any]:
    """A real collective over gloo, in which rank `values["absent"]` takes no part."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    report("joining")
    dist.init_process_group("gloo", timeout=timedelta(seconds=values["timeout_seconds"]))
    report("reducing")
    if dist.get_rank() == values.get("absent"):
        if values["how"] == "hang":
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    total = torch.ones(4) * (dist.get_rank() + 1)
    dist.all_reduce(total)
    return {"total": total.tolist()}


def run(folder: Path, num_ranks: int = 2, timeout_seconds: float = 60.0, **told: str) -> list[dict[str, Any]]:
    values = {"folder": str(folder)} | {name.removeprefix("rank"): what for name, what in told.items()}
    return launch_local(body, values, num_ranks, timeout_seconds=timeout_seconds, oversubscribe=True)


def assert_no_rank_lives(folder: Path, num_ranks: int = 2) -> None:
    for rank in range(num_ranks):
        pid = int(Path(folder, f"pid-{rank}").read_text())
        deadline = time.monotonic() + 10
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(pid), f"rank {rank} outlived its launch"


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie waits only to be reaped)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_results_come_back_by_rank(tmp_path: Path) -> None:
    phases: list[str] = []
    values = {"folder": str(tmp_path)}
    results = launch(body, values, 4, timeout_seconds=60, oversubscribe=True, on_progress=phases.append)
    assert results == [{"rank": rank, "world": "4"} for rank in range(4)]
    assert phases == ["working"]
    assert_no_rank_lives(tmp_path, 4)


def test_a_rank_that_raises_is_named_with_the_first_line_of_its_error(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"^rank 1 failed in 'working': RuntimeError: boom on purpose$"):
        run(tmp_path, rank0="follow", rank1="raise")
    assert_no_rank_lives(tmp_path)


def test_a_killed_rank_is_the_cause_even_if_its_peers_complain_first(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="rank 1 failed in 'working': was ended by SIGKILL"):
        run(tmp_path, rank0="follow", rank1="kill")
    assert_no_rank_lives(tmp_path)


def test_too_little_memory_is_said(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"rank 1 failed in 'working': RuntimeError: .*can't allocate memory"):
        run(tmp_path, rank0="follow", rank1="too much")
    assert_no_rank_lives(tmp_path)


def test_the_last_words_of_a_rank_that_exits_are_kept(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"rank 0 failed in 'working': ended with exit code 7 \(last words\)"):
        run(tmp_path, rank0="exit", rank1="follow")


def test_a_hang_ends_at_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"did not finish within 3 s; it stopped at rank 1 in 'working'"):
        run(tmp_path, timeout_seconds=3, rank1="hang")
    assert_no_rank_lives(tmp_path)


def test_a_hang_that_peers_time_out_on_is_blamed_on_the_silent_rank(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="rank 1 hung in 'working'; rank 0 waited for it: RuntimeError: Timed out"):
        run(tmp_path, rank0="time out", rank1="hang")
    assert_no_rank_lives(tmp_path)


def test_a_real_collective() -> None:
    results = launch_local(all_reduce, {"timeout_seconds": 30}, 2, timeout_seconds=60, oversubscribe=True)
    assert [result["total"] for result in results] == [[3.0] * 4] * 2


@pytest.mark.parametrize(
    ("how", "told"), [("kill", "rank 1 failed in 'reducing': was ended by SIGKILL"), ("hang", "rank 1 hung in")]
)
def test_a_rank_lost_in_a_real_collective(how: str, told: str) -> None:
    values = {"timeout_seconds": 2, "absent": 1, "how": how}
    with pytest.raises(LaunchError, match=told):
        launch_local(all_reduce, values, 2, timeout_seconds=60, oversubscribe=True)


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match=f"port: {port} on 127.0.0.1 cannot be used"):
            launch(body, {"folder": str(tmp_path)}, 1, port=port)
    with pytest.raises(LaunchError, match="port: 70000 is not a port"):
        launch(body, {"folder": str(tmp_path)}, 1, port=70000)


def test_a_given_port_is_used(tmp_path: Path) -> None:
    assert launch(body, {"folder": str(tmp_path)}, 1, port=free_port())[0]["rank"] == 0


def test_too_few_cores_are_refused() -> None:
    with pytest.raises(LaunchError, match=f"needs {num_cores() + 1} ranks but this machine has {num_cores()} cores"):
        launch(body, {}, num_cores() + 1)


def test_without_torch_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LaunchError, match=r'pip install "meshwise\[validate\]"'):
        launch(body, {}, 1)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ranks_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import signal, sys; from pathlib import Path; from tests.test_launch import run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # which background jobs of a shell start without\n"
        "if __name__ == '__main__': run(Path(sys.argv[1]), rank0='hang', rank1='hang')\n"
    )
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root}
    folder = Path(tempfile.mkdtemp())  # a short name: sockets in it may have about a hundred characters
    environment |= {"TMPDIR": str(folder)}
    parent = subprocess.Popen([sys.executable, script, tmp_path], cwd=root, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"pid-{rank}").exists() for rank in range(2)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    parent.send_signal(how)
    parent.communicate(timeout=30)
    assert_no_rank_lives(tmp_path)
    assert not list(folder.glob("meshwise-*"))
    shutil.rmtree(folder)
