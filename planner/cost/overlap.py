"""What data-parallel messages cost that run beside compute.

Compute that shares its device with a collective loses part of its rate: the collective takes multiprocessors and
memory bandwidth [Rashidi 2021, ACE, doi:10.1109/ISCA52012.2021.00049, section III]. While one second of messages runs,
compute loses a fraction of one: 0 is perfect overlap, 1 none at all.
"""

from typing import Any

import numpy as np

from profiles.software import SoftwareStack

Seconds = Any
"""A float, or an array of one value a plan."""


def stack_contention_fraction(stack: SoftwareStack) -> float:
    """What compute loses of its rate beside data-parallel messages: all of it on a stack that overlaps nothing."""
    return stack.dp_contention_fraction if stack.dp_overlap else 1.0


def added_seconds(compute: Seconds, messages: Seconds, contention_fraction: float) -> Seconds:
    """What `messages` add to the `compute` they run beside: max(c + s x, x) - c.

    Beside messages, compute runs at 1 - s of its rate, so that c seconds of it and x of messages end together
    after max(c + s x, x): the roofline of overlap [Williams 2009] with the contention of this module.
    """
    return np.maximum(contention_fraction * messages, messages - compute)


def exposed_seconds(
    communication: Seconds,
    compute: Seconds,
    num_buckets: Seconds,
    *,
    overlaps: bool,
    contention_fraction: float = 0.0,
    num_chunks: Any = 1.0,
    chunk_lead: Any = 1.0,
    chunk_compute: Any = None,
    num_slowed: Any = 1.0,
) -> Seconds:
    """What `communication` in buckets leaves uncovered by the `compute` that makes (or uses) them.

    All of it without overlap; else max(t / n, t - c (1 - 1/n)): the last bucket is never covered, the others
    run beside the compute that remains [Li 2020, PyTorch Distributed, arXiv:2006.15704, section 3.2.2], and slow
    it by `contention_fraction` on each of `num_slowed` stages that end one after the other. With v = `num_chunks` a
    rank this holds for the chunk that ends the step, with t / v, c / v and n / v; the gradients of the other chunks
    are ready (v - 1) `chunk_lead` chunks earlier, each of `chunk_compute` / v (c / v where it is not given).
    """
    if not overlaps:
        return communication
    own, share = communication / num_chunks, num_chunks / num_buckets
    beside = compute / num_chunks * (1.0 - share)
    earlier = (num_chunks - 1.0) * chunk_lead * (compute if chunk_compute is None else chunk_compute) / num_chunks
    uncovered = np.maximum(own * share, np.maximum(own - beside, communication - earlier - beside))
    last = own * share
    return np.maximum(uncovered, last + num_slowed * contention_fraction * (communication - last))
