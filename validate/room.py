"""Whether this machine has room for a run, before it is tried: a killed rank takes others' work with it."""

import os
from pathlib import Path

from planner.cost.memory import memory
from planner.plan import Plan
from profiles.software import SoftwareStack
from profiles.units import GIB, KIB, MIB
from profiles.workload import TrainingJob
from validate.launch import LaunchError, num_gpus

PROCESS_BYTES = 300.0 * MIB
"""Resident memory of a rank before it builds anything: Python and torch, 265 to 300 MB (torch 2.13)."""


def check_room(job: TrainingJob, plan: Plan, stack: SoftwareStack) -> None:
    """Raise LaunchError when the ranks on this host need more memory than it has free.

    Ranks on GPUs hold little on the host and are not checked; nor is a kernel that does not say what is free.
    """
    num_ranks = min(plan.num_ranks, int(os.environ.get("LOCAL_WORLD_SIZE", plan.num_ranks)))
    free_bytes = available_bytes()
    if num_gpus() >= num_ranks or free_bytes is None:
        return
    needed_bytes = num_ranks * (float(memory(plan, job, stack).peak_bytes) + PROCESS_BYTES)
    if needed_bytes > free_bytes:
        raise LaunchError(
            f"memory: {num_ranks} ranks need about {needed_bytes / GIB:,.1f} GiB here and {free_bytes / GIB:,.1f} GiB "
            "are free; take a smaller model, batch or sequence"
        )


def available_bytes() -> float | None:
    """Memory that processes can get without swapping; None where the kernel does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(float(line.split()[1]) * KIB for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
