"""Figures users compare runs by, from a step time."""

from typing import Any

from planner.work.layers import model_flops
from profiles.mixed import AnyCluster, groups_of
from profiles.workload import TrainingJob


def tokens_per_second(step_seconds: Any, job: TrainingJob) -> Any:
    """Tokens of the whole cluster per second."""
    return job.tokens_per_step / step_seconds


def model_flops_per_second_per_device(step_seconds: Any, job: TrainingJob, cluster: AnyCluster) -> Any:
    """Model FLOPs (no recomputation) per second and device."""
    return model_flops(job) / step_seconds / cluster.num_devices


def mfu(step_seconds: Any, job: TrainingJob, cluster: AnyCluster) -> Any:
    """Model FLOPs utilisation: model FLOP/s per device over its dense peak [Chowdhery 2022, arXiv:2204.02311, B].

    Of devices that differ, the mean peak; devices that a plan leaves idle count too.
    """
    groups = [group for _, group in groups_of(cluster)]
    peak = sum(one.num_devices * one.accelerator.flops_per_second(job.compute_dtype) for one in groups)
    return model_flops_per_second_per_device(step_seconds, job, cluster) * cluster.num_devices / peak
