"""What a source leaves open, taken so that a run needs the least memory.

A run is called too big only if even this reading of its source does not fit: what nobody stated must not raise a
false alarm.
"""

from dataclasses import replace

from planner.cost.fit import Fit, fit_of
from planner.cost.memory import MemoryBreakdown, memory
from planner.plan import Plan, Recompute
from validate.runs.resolve import Setting
from validate.runs.table import Run


def is_too_big(setting: Setting, predicted: MemoryBreakdown | None = None) -> bool | None:
    """Whether a run is predicted not to fit; None if that turns on what its source leaves open.

    `predicted` is its memory where that is known already.
    """
    if predicted is None:
        predicted = memory(setting.plan, setting.job, setting.stack)
    if fit_of(predicted, setting.cluster, setting.stack) is not Fit.TOO_BIG:
        return False
    return True if _is_too_big(least_memory(setting)) else None


def _is_too_big(setting: Setting) -> bool:
    found = memory(setting.plan, setting.job, setting.stack)
    return fit_of(found, setting.cluster, setting.stack) is Fit.TOO_BIG


def least_memory(setting: Setting) -> Setting:
    """The setting with recomputation, optimizer sharding and sequence parallelism on where the row says nothing."""
    return replace(setting, plan=_least(setting.plan, setting.run))


def _least(plan: Plan, run: Run) -> Plan:
    if not run.recompute:
        plan = replace(plan, recompute=Recompute.FULL)
    if not run.zero_stage_or_fsdp and plan.dp * plan.cp > 1:
        plan = replace(plan, zero_stage=3)
    if run.sp is None and plan.tp > 1:
        plan = replace(plan, sequence_parallel=True)
    return plan
