"""Why one plan beats another: the parts that differ, in words."""

from planner.breakdown import Breakdown
from planner.cost.estimate import Estimate
from planner.cost.memory import usable_bytes
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.units import GIB, MILLI

PART_WORDS = {
    "forward": "forward compute",
    "backward": "backward compute",
    "recompute": "recomputation",
    "optimizer": "optimizer step",
    "tp": "tensor-parallel communication",
    "cp": "context-parallel communication",
    "ep": "expert-parallel communication",
    "pp": "transfers between stages",
    "dp": "gradient reduction and parameter gather",
    "host": "kernel launches",
    "idle": "pipeline bubble",
}


def duration(seconds: float) -> str:
    """Seconds as people read them, to three digits: `1,234 s`, `12.0 s`, `45.0 ms`."""
    value, unit = (seconds, "s") if abs(seconds) >= 1.0 else (seconds / MILLI, "ms")
    whole_digits = len(str(int(abs(value))))
    return f"{value:,.{max(0, 3 - whole_digits)}f} {unit}"


def differences(first: Breakdown, second: Breakdown) -> list[tuple[str, float]]:
    """(part, seconds of `first` over `second`), largest gain or loss first."""
    other = second.parts()
    gaps = [(part, seconds - other[part]) for part, seconds in first.parts().items()]
    return sorted(gaps, key=lambda gap: -abs(gap[1]))


def why_lost(loser: Breakdown, winner: Breakdown) -> str:
    """One sentence: how much slower, and which parts of the breakdown grew (and which shrank, if that is news)."""
    slower = loser.step_seconds - winner.step_seconds
    gaps = differences(loser, winner)
    grew = [gap for gap in gaps if gap[1] > 0.1 * abs(slower) and gap[1] > 1e-3 * winner.step_seconds]
    if slower <= 5e-4 * winner.step_seconds or not grew:
        return "as fast within 0.05 %; the simpler plan is preferred"
    words = ", ".join(f"+{duration(seconds)} {PART_WORDS[part]}" for part, seconds in grew[:2])
    saved = [gap for gap in gaps if gap[1] < -0.25 * slower][:1]
    but = "".join(f", though {duration(-seconds)} less {PART_WORDS[part]}" for part, seconds in saved)
    return f"{100.0 * slower / winner.step_seconds:.1f} % slower: {words}{but}"


def why_larger(loser: Estimate, winner: Estimate) -> str:
    """One sentence: how many bytes more a plan takes than another, of what most, and how its step compares."""
    gaps = {part: num_bytes - winner.memory.parts()[part] for part, num_bytes in loser.memory.parts().items()}
    part = max(gaps, key=lambda name: gaps[name])
    over = (loser.memory.peak_bytes - winner.memory.peak_bytes) / GIB
    step = loser.step_seconds / winner.step_seconds - 1.0
    return f"{over:.1f} GiB larger, most of it {part} ({gaps[part] / GIB:+.1f} GiB); its step is {step:+.1%}"


def why_too_big(estimate: Estimate, cluster: Cluster, stack: SoftwareStack) -> str:
    """One sentence: how many bytes over what a plan may take of the device's memory, and what takes the most."""
    usable = usable_bytes(cluster, stack)
    part, num_bytes = max(estimate.memory.parts().items(), key=lambda item: item[1])
    return (
        f"{(estimate.memory.peak_bytes - usable) / GIB:.1f} GiB over the {usable / GIB:.1f} GiB usable of "
        f"{cluster.accelerator.name}; most is {part}, {num_bytes / GIB:.1f} GiB"
    )


def why_risky(cluster: Cluster, stack: SoftwareStack) -> str:
    """One sentence: what would make a plan run out of memory that is expected to fit."""
    more = 100.0 * (stack.reserved_p90_over_median - 1.0)
    return (
        f"one run in ten reserves {more:.1f} % more than the median, which is past the "
        f"{usable_bytes(cluster, stack) / GIB:.1f} GiB usable of {cluster.accelerator.name}"
    )
