"""How long a pipeline schedule takes, in closed form, from the times of its stages.

The bubbles of GPipe, 1F1B and interleaving [Narayanan 2021, arXiv:2104.04473, section 2.2], for unequal stages.
A stage is all of one pipeline rank: v chunks under the interleaved schedule. The simulator finds the same
figures by playing the actions of `planner.work.schedules`; the tests compare the two.
"""

from typing import Any

import numpy as np

from planner.plan import SCHEDULE_NAMES

Seconds = Any
Numbers = Any
"""A number, or an array of one value a plan. Everything here broadcasts."""


def makespan_seconds(
    schedule_codes: Numbers,
    *,
    forward_sum: Seconds,
    backward_sum: Seconds,
    forward_max: Seconds,
    backward_max: Seconds,
    total_max: Seconds,
    first_forward: Seconds,
    first_backward: Seconds,
    last_total: Seconds,
    num_microbatches: Numbers,
    num_stages: Numbers,
    vp: Numbers,
) -> Seconds:
    """Seconds from the first forward to the last backward, with messages that take no time.

    Sums and maxima are over the stages, of one microbatch; `first_*` is stage 0, `last_total` the last one's
    forward and backward. Codes index `planner.plan.SCHEDULE_NAMES`. See the function of each schedule for its
    source and for how far it is exact.
    """
    stages = forward_sum + backward_sum
    by_name = {
        "gpipe": gpipe_seconds(forward_sum, backward_sum, forward_max, backward_max, num_microbatches),
        "1f1b": one_forward_one_backward_seconds(
            stages, total_max, first_forward, first_backward, last_total, num_microbatches, num_stages
        ),
        "interleaved": interleaved_seconds(
            stages, total_max, first_forward + first_backward, last_total, num_microbatches, num_stages, vp
        ),
    }
    return _select(schedule_codes, by_name)


def gpipe_seconds(
    forward_sum: Seconds, backward_sum: Seconds, forward_max: Seconds, backward_max: Seconds, num_microbatches: Numbers
) -> Seconds:
    """sum f + (m - 1) max f + sum b + (m - 1) max b. Exact for any stages.

    The forwards are a flow shop of equal jobs, and so are the backwards, which start on the last stage when its
    last forward ends [Huang 2019, arXiv:1811.06965, section 2.3, for equal stages].
    """
    return forward_sum + backward_sum + (num_microbatches - 1.0) * (forward_max + backward_max)


def one_forward_one_backward_seconds(
    stages: Seconds,
    total_max: Seconds,
    first_forward: Seconds,
    first_backward: Seconds,
    last_total: Seconds,
    num_microbatches: Numbers,
    num_stages: Numbers,
) -> Seconds:
    """The longest path through the 1F1B graph: the heaviest of the last stage, the stage before it and the first.

    Equal stages: (m + p - 1)(f + b) [Narayanan 2021, arXiv:2104.04473, section 2.2.1]. With S the sum over
    stages of t = f + b, a path that dwells on stage k descends from it when it arrives and when it leaves:

        last stage       S + (m - 1) t_last
        stage p - 2      S + (m - 2) t + t_last
        stage 0, m >= p  max(p f0, S - b0) + (m - p) t0 + max(p b0, S - f0)
        stage 0, m < p   max(m t0, S + (m - 1) max(f0, b0))

    Exact when the stages between the first and the last are equal and m >= p or the first stage is at most a
    third heavier than they are. Other stages: within 2 % if they differ by 10 %, 7 % if they differ by 40 %.
    """
    first_total = first_forward + first_backward
    between = _between(stages, total_max, first_total, last_total, num_stages)
    on_last = stages + (num_microbatches - 1.0) * last_total
    on_inner = stages + (num_microbatches - 2.0) * between + last_total
    on_first = (
        np.maximum(num_stages * first_forward, stages - first_backward)
        + (num_microbatches - num_stages) * first_total
        + np.maximum(num_stages * first_backward, stages - first_forward)
    )
    on_first_if_few = np.maximum(
        num_microbatches * first_total,
        stages + (num_microbatches - 1.0) * np.maximum(first_forward, first_backward),
    )
    on_first = np.where(np.greater_equal(num_microbatches, num_stages), on_first, on_first_if_few)
    has_inner = np.greater(num_stages, 2) & np.greater(num_microbatches, 1)
    return np.maximum(np.maximum(on_last, on_first), np.where(has_inner, on_inner, 0.0))


def interleaved_seconds(
    stages: Seconds,
    total_max: Seconds,
    first_total: Seconds,
    last_total: Seconds,
    num_microbatches: Numbers,
    num_stages: Numbers,
    vp: Numbers,
) -> Seconds:
    """m t_last + (p - 1) c + p e, with c one chunk between the first and last and e what chunk 0 has above it.

    Equal stages: m t + (p - 1) t / v [Narayanan 2021, arXiv:2104.04473, section 2.2.2]. The head's excess is
    paid by every microbatch; the embedding's by the p of the first group, in the fill and in the drain. Exact
    when chunks other than the first and the last are equal and e is small (m e below (p - 1) c); never below m
    times the slowest stage. If another stage is the slowest: m t_max + (S - t_max) / v.
    """
    between = _between(stages, total_max, first_total, last_total, num_stages)
    excess = np.maximum(first_total - between, 0.0)
    ends = num_microbatches * last_total + (num_stages - 1.0) * between / vp + num_stages * excess
    inner = num_microbatches * total_max + (stages - total_max) / vp
    return np.where(
        np.greater(total_max, np.maximum(first_total, last_total)),
        np.maximum(ends, inner),
        np.maximum(ends, num_microbatches * total_max),
    )


def _between(
    stages: Seconds, total_max: Seconds, first_total: Seconds, last_total: Seconds, num_stages: Numbers
) -> Seconds:
    """A stage between the first and the last: the mean, or the heaviest if that is heavier than both ends.

    Two stages have none between them: then the lighter end stands for one.
    """
    num_between = np.subtract(num_stages, 2.0)
    mean = (stages - first_total - last_total) / np.maximum(num_between, 1.0)
    lighter_end = np.minimum(first_total, last_total)
    between = np.where(np.greater(num_between, 0.0), mean, lighter_end)
    return np.where(np.greater(total_max, np.maximum(first_total, last_total)), total_max, between)


def last_excess_seconds(stages: Seconds, last_total: Seconds, num_stages: Numbers) -> Seconds:
    """What the last stage takes above the mean of the others, at least 0; `stages` is the sum over all of them."""
    mean = (stages - last_total) / np.maximum(np.subtract(num_stages, 1.0), 1.0)
    return np.where(np.greater(num_stages, 1), np.maximum(last_total - mean, 0.0), 0.0)


def exposed_p2p_seconds(
    schedule_codes: Numbers,
    *,
    transfer_seconds: Seconds,
    last_excess: Seconds,
    num_stages: Numbers,
    vp: Numbers,
    num_microbatches: Numbers,
    overlaps: bool,
) -> Seconds:
    """What transfers of `transfer_seconds` each add to the makespan; 0 for one stage.

    `overlaps` says that messages travel beside compute; if not, a message moves only while its receiver waits and
    a rank has one stream for both directions. `last_excess` is `last_excess_seconds` of the stages: while they
    wait for a heavier last stage, transfers between them cost nothing. Derived from the longest path of equal
    stages with a heavier last one; no closed form is published.
    """
    formula = _beside_compute if overlaps else _blocking
    by_name = formula(transfer_seconds, last_excess, num_stages, num_microbatches, vp)
    return np.where(np.greater(num_stages, 1), _select(schedule_codes, by_name), 0.0)


def _beside_compute(c: Seconds, excess: Seconds, p: Numbers, m: Numbers, v: Numbers) -> dict[str, Seconds]:
    """Transfers of c seconds that run beside compute, with x the excess of the last stage.

        gpipe        2 c (p - 1)                             the fill and the drain
        1f1b         2 c (p - 1) + max(0, 2 c - x) floor((m - 1)(p - 1)/p)
        interleaved  2 c (p v - 1)                           the deeper warm-up hides all but fill and drain

    Under 1F1B stage 0 waits for a round trip every p microbatches. Exact (interleaved: for x = 0) while transfers
    are shorter than a forward, so that they never queue.
    """
    fill = 2.0 * c * (p - 1.0)
    steady = np.maximum(2.0 * c - excess, 0.0) * _round_trips(p, m)
    return {"gpipe": fill, "1f1b": fill + steady, "interleaved": 2.0 * c * (p * v - 1.0)}


def _blocking(c: Seconds, excess: Seconds, p: Numbers, m: Numbers, v: Numbers) -> dict[str, Seconds]:
    """Transfers of c seconds that a rank waits for, with x the excess of the last stage.

        gpipe        2 c (m + 2 (p - 2)) - x (m - 1), at least c (m + 2 p - 3)
        1f1b, p > 2  c (3 (p - 1) + 4 (m - 2) - 3 floor((m - 2)/(p - 1))) - x k, at least c (m + 3 p - 5)
        1f1b, p = 2  c (2 m - 1 + m mod 2) - x k, at least c (m + 1), with k = floor((m - 1)(p - 1)/p)
        interleaved  c ((2 v - 1)(m - p) + 4 p v - 5)

    For equal stages GPipe is exact, 1F1B within 16 % of the simulator (mostly 4 %), and interleaved exact for
    transfers of a hundredth of a forward and low by up to a quarter for longer ones. One microbatch pays
    2 c (p - 1).
    """
    trips = _round_trips(p, m)
    gpipe = np.maximum(c * (m + 2.0 * p - 3.0), 2.0 * c * (m + 2.0 * (p - 2.0)) - excess * (m - 1.0))
    rests = np.floor((m - 2.0) / np.maximum(np.subtract(p, 1.0), 1.0))
    blocked = np.where(np.equal(p, 2), 2.0 * m - 1.0 + np.mod(m, 2), 3.0 * (p - 1.0) + 4.0 * (m - 2.0) - 3.0 * rests)
    one_forward = np.maximum(c * (m + 3.0 * p - 5.0), c * blocked - excess * trips)
    fill = 2.0 * c * (p - 1.0)
    several = np.greater(m, 1)
    return {
        "gpipe": np.where(several, gpipe, fill),
        "1f1b": np.where(several, one_forward, fill),
        "interleaved": c * ((2.0 * v - 1.0) * (m - p) + 4.0 * p * v - 5.0),
    }


def _round_trips(p: Numbers, m: Numbers) -> Numbers:
    return np.floor((m - 1.0) * (p - 1.0) / p)


def _select(schedule_codes: Numbers, by_name: dict[str, Any]) -> Any:
    conditions = [np.equal(schedule_codes, code) for code in range(len(SCHEDULE_NAMES))]
    return np.select(conditions, [by_name[name] for name in SCHEDULE_NAMES])
