"""A whole plan traced: one rank of each kind, each in a process of its own, beside the planner's figures."""

import logging
import multiprocessing
import os
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec

from planner.plan import Plan
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from validate.trace.agree import Row, rows
from validate.trace.figures import Traced
from validate.trace.possible import check_traceable
from validate.trace.roles import padded, reduced, roles

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Role:
    """One traced rank, and how many pipeline stages do as it does."""

    stage: int
    num_stages: int
    rows: tuple[Row, ...]
    peak_bytes: float
    """Most that lived at once on the traced rank, before its update."""

    @property
    def faults(self) -> tuple[Row, ...]:
        """The rows whose difference is not fully explained."""
        return tuple(row for row in self.rows if row.unexplained)


@dataclass(frozen=True, slots=True)
class TraceReport:
    """Every kind of rank of a plan, estimated and traced."""

    job: TrainingJob
    """What was traced: the job asked for, or one with fewer layers and microbatches."""
    plan: Plan
    roles: tuple[Role, ...]

    @property
    def num_faults(self) -> int:
        """Rows of all ranks whose difference is not fully explained."""
        return sum(len(role.faults) for role in self.roles)


def trace_plan(
    job: TrainingJob,
    plan: Plan,
    stack: SoftwareStack,
    *,
    whole: bool = False,
    executor: Executor | None = None,
    on_progress: Progress | None = None,
) -> TraceReport:
    """Trace `plan` of `job` on fake ranks and set it beside the planner's figures under `stack`.

    `whole` traces every layer and microbatch; else at most two layers a chunk and two microbatches a stage. Ranks run
    in `executor`, which must give each a fresh process. Raises ValueError when the plan cannot be traced or torch is
    missing.
    """
    check_traceable(job, plan)
    if find_spec("torch") is None:
        raise ValueError('trace needs torch, which is not installed; pip install "meshwise[validate]"')
    small, laid_out = (padded(job, plan, stack), plan) if whole else reduced(job, plan, stack)
    kinds = roles(small, laid_out)
    found = []
    with executor or _fresh_processes(len(kinds)) as pool:
        waiting = [(stage, pool.submit(_traced, small, laid_out, stack, stage)) for stage in kinds]
        for done, (stage, answer) in enumerate(waiting, start=1):
            traced = answer.result()
            found.append(Role(stage, kinds[stage], rows(traced, small, laid_out, stack), traced.peak_bytes))
            if on_progress:
                on_progress("trace", done, len(waiting))
    return TraceReport(small, laid_out, tuple(found))


def _fresh_processes(num_ranks: int) -> ProcessPoolExecutor:
    """A process for each rank: torch keeps the process groups of a world in caches that do not end with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["validate.trace.run"])
    return ProcessPoolExecutor(min(num_ranks, os.cpu_count() or 1), mp_context=context, max_tasks_per_child=1)


def _traced(job: TrainingJob, plan: Plan, stack: SoftwareStack, stage: int) -> Traced:
    """`trace_rank` in a child, which alone imports torch; what torch says goes into the error, not to the screen."""
    logging.disable()
    warnings.simplefilter("ignore")
    try:
        from validate.trace.run import trace_rank
    except ImportError as error:
        raise ValueError(f"trace: this release of torch lacks what a trace needs ({error}); 2.13 has it") from None
    try:
        return trace_rank(job, plan, stack, stage)
    except (RuntimeError, NotImplementedError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"trace: torch cannot run {plan}: {lines[0][:300]}") from None
