"""Networks made on one machine: they hold their rate and latency, and nothing of them stays."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from validate.launch import LaunchError, Report
from validate.netbed import NetBed, why_not
from validate.netbed.bed import address
from validate.netbed.names import PREFIX, present, sweep
from validate.netbed.namespace import within
from validate.netbed.permission import why_not as reason
from validate.netbed.shape import delay_words, rate_words
from validate.netbed.shell import NetBedError, ip

needs_bed = pytest.mark.skipif(bool(why_not()), reason=f"no test bed here: {why_not()}")
PORT = 7001


def transfer_seconds(bed: NetBed, num_bytes: int) -> float:
    """From the first byte sent by host 1 to the answer of host 0, which has read all."""
    with within(bed.hosts[0]):
        server = socket.create_server((address(0), PORT))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            left = num_bytes
            while left > 0 and (data := connection.recv(1 << 20)):
                left -= len(data)
            connection.sendall(b"!")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with within(bed.hosts[1]):
        client = socket.create_connection((address(0), PORT), timeout=20)
    with client, server:
        start = time.monotonic()
        client.sendall(b"x" * num_bytes)
        assert client.recv(1) == b"!"
        taken = time.monotonic() - start
    thread.join()
    return taken


@needs_bed
def test_a_link_is_never_faster_than_its_rate() -> None:
    with NetBed(2, 20e6) as bed:
        assert transfer_seconds(bed, 4_000_000) >= (4e6 - 256 * 1024) / 20e6
    assert not mine()


@needs_bed
def test_a_link_is_never_faster_than_its_latency() -> None:
    """By netem, or by the packets' own process where the kernel has none."""
    with NetBed(3, 100e6, latency_seconds=0.02) as bed:
        assert len(bed.hosts) == 3
        assert transfer_seconds(bed, 100) >= 2 * 0.02
    assert not mine()


def mine() -> list[str]:
    return [name for name in present() if name.startswith(f"{PREFIX}-{os.getpid()}-")]


@needs_bed
def test_hosts_see_each_other_and_nothing_else() -> None:
    with NetBed(2, 100e6) as bed:
        with within(bed.hosts[0]):
            names = {name for _, name in socket.if_nameindex()}
        assert "bed0" in names
        assert "eth0" not in names
        assert len(mine()) == 3
    assert not mine()


@needs_bed
def test_a_failure_inside_leaves_nothing() -> None:
    with pytest.raises(RuntimeError, match="in the middle"), NetBed(2, 1e6, latency_seconds=0.001):
        raise RuntimeError("in the middle")
    assert not mine()


@needs_bed
def test_a_failure_while_it_is_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: str) -> str:
        raise NetBedError("tc: no")

    monkeypatch.setattr("validate.netbed.bed.tc", breaks)
    with pytest.raises(NetBedError, match="tc: no"), NetBed(2, 1e6):
        raise AssertionError("never entered")
    assert not mine()


@needs_bed
def test_what_a_killed_process_left_is_swept() -> None:
    script = (
        "import os, signal\n"
        "from validate.netbed import NetBed\n"
        "if __name__ == '__main__':\n"
        "    with NetBed(2, 1e6):\n"
        "        print(os.getpid(), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [name for name in present() if name.startswith(f"{PREFIX}-{done.stdout.strip()}-")]
    assert len(left) == 3
    ip("netns", "add", f"{PREFIX}-{os.getpid()}-kept")
    try:
        assert set(left) <= set(sweep())
        assert f"{PREFIX}-{os.getpid()}-kept" in present()
    finally:
        ip("netns", "delete", f"{PREFIX}-{os.getpid()}-kept")
    assert not set(left) & set(present())


def whereabouts(values: dict[str, Any], report: Report) -> dict[str, Any]:
    """The body of a rank that says where it runs."""
    names = sorted(name for _, name in socket.if_nameindex())
    return {"rank": os.environ["RANK"], "master": os.environ["MASTER_ADDR"], "devices": names, **values}


@needs_bed
def test_ranks_fill_the_hosts_in_order() -> None:
    pytest.importorskip("torch")
    with NetBed(2, 100e6) as bed:
        found = bed.launch(whereabouts, {"key": 1}, 4, timeout_seconds=60.0, oversubscribe=True)
        with pytest.raises(ValueError, match="num_ranks: 3 are not equally many on 2 hosts"):
            bed.launch(whereabouts, {}, 3, timeout_seconds=60.0)
        ip("netns", "delete", bed.hosts[1])
        with pytest.raises(LaunchError, match="No such file"):
            bed.launch(whereabouts, {}, 2, timeout_seconds=60.0, oversubscribe=True)
    assert [row["rank"] for row in found] == ["0", "1", "2", "3"]
    assert all(row["master"] == address(0) and "bed0" in row["devices"] and row["key"] == 1 for row in found)


@pytest.mark.parametrize(("hosts", "rate", "latency"), [(1, 1e6, 0.0), (99, 1e6, 0.0), (2, 0.0, 0.0), (2, 1e6, -1.0)])
def test_figures_that_make_no_network_are_refused(hosts: int, rate: float, latency: float) -> None:
    with pytest.raises(ValueError, match=r"num_hosts: must be|needs a positive rate"):
        NetBed(hosts, rate, latency)


def test_a_machine_that_does_not_allow_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    reason.cache_clear()
    try:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(NetBedError, match="no test bed here: network namespaces need root"):
            NetBed(2, 1e6).__enter__()
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr("shutil.which", lambda name: None)
        reason.cache_clear()
        expected = "ip is not installed (package iproute2)" if sys.platform == "linux" else "are Linux's"
        assert expected in reason()
    finally:
        reason.cache_clear()


def test_words_of_tc_carry_the_figures() -> None:
    words = rate_words("bed0", 125e6)
    assert words[words.index("rate") + 1] == "1000000000bit"
    assert delay_words("bed0", 0.0025)[-1] == "2.5ms"


def test_namespaces_lie_where_ip_puts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("validate.netbed.names._FOLDER", tmp_path)
    (tmp_path / f"{PREFIX}-1-0-0").touch()
    (tmp_path / "someone-elses").touch()
    assert present() == [f"{PREFIX}-1-0-0"]
