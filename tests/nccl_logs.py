"""Text as nccl-tests prints it, for tests: times made by a formula, so that the truth is known."""

from collections.abc import Callable, Sequence

SIZES = tuple(2**power for power in range(10, 31, 2))
BUS_FACTOR: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2.0 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "alltoall": lambda n: (n - 1) / n,
    "sendrecv": lambda n: 1.0,
}


def ring_seconds(size: float, num_ranks: int, program: str = "all_reduce") -> float:
    """20 us and 40 GB/s of bus bandwidth."""
    return 20e-6 + BUS_FACTOR[program](num_ranks) * size / 40e9


def nccl_log(
    num_hosts: int = 2,
    per_host: int = 8,
    program: str = "all_reduce",
    device: str = "NVIDIA H100 80GB HBM3",
    sizes: Sequence[int] = SIZES,
    seconds: Callable[[float, int, str], float] = ring_seconds,
    prefix: str = "",
    wrong: str = "0",
) -> str:
    """The output of one run, each line behind `prefix`."""
    ranks = num_hosts * per_host
    lines = [
        f"# Collective test starting: {program}_perf",
        f"# nThread 1 nGpus 1 minBytes {sizes[0]} maxBytes {sizes[-1]} step: 4(factor) warmup iters: 5 iters: 20",
        "#",
        "# Using devices",
    ]
    lines += [
        f"#  Rank {rank:2d} Group  0 Pid {4000 + rank} on  node-{rank // per_host} device {rank % per_host:2d} "
        f"[0000:{rank % per_host:02x}:00] {device}"
        for rank in range(ranks)
    ]
    lines += [
        "#                                            out-of-place                       in-place",
        "#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw",
    ]
    for size in sizes:
        time = seconds(size, ranks, program)
        rate, bus = size / time / 1e9, BUS_FACTOR[program](ranks) * size / time / 1e9
        half = f"{time * 1e6:8.2f} {rate:7.2f} {bus:7.2f} {wrong:>6}"
        reduction = "sum" if program in ("all_reduce", "reduce_scatter") else "none"
        lines.append(f"{size:12d} {size // 4:12d} float {reduction:>7} -1 {half} {half}")
    lines += ["# Out of bounds values : 0 OK", f"# Collective test concluded: {program}_perf"]
    return "\n".join(prefix + line for line in lines) + "\n"
