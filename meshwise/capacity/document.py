"""The answer to a capacity question as JSON: stable keys, SI units, shares as fractions (docs/json.md)."""

import math
from typing import Any

from meshwise.capacity.answering import CapacityAnswer, Member
from meshwise.jsonout import plan_fields
from planner.choose.capacity.affordable import Largest
from planner.choose.capacity.answer import Refused
from planner.choose.capacity.breakeven import BreakEven
from planner.choose.capacity.option import Option
from planner.choose.capacity.scaling import Curve
from planner.choose.capacity.whatif import WhatIf


def document(found: CapacityAnswer) -> dict[str, Any]:
    """The document of `capacity --json` for a training job."""
    ranking, question = found.ranking, found.question
    demand = ranking.demand
    return {
        "job": question.job.model_dump(exclude={"cluster", "devices"}) | {"assumed": list(question.assumed)},
        "demand": {
            "tokens": demand.tokens,
            "start": question.start.isoformat(),
            "deadline_seconds": _finite(demand.deadline_seconds),
            "budget_dollars": _finite(demand.budget_dollars),
            "max_risk_fraction": demand.max_risk_fraction,
            "fleet": demand.fleet.name,
            "spare_fraction": demand.spare_fraction,
            "storage_bytes_per_second": demand.storage_bytes_per_second,
        },
        "best": _key(ranking.best),
        "smallest": [_key(one) for one in ranking.smallest],
        "nearest": [_key(one) for one in ranking.nearest],
        "options": [
            _option(one, on_front=one.key in ranking.front, chance=found.chances.get(one.key, 0.0))
            for one in ranking.options
        ],
        "refused": [_refused(one) for one in ranking.refused],
        "unused": dict(question.setups.unused),
        "what_ifs": [_what_if(one) for one in found.what_ifs],
        "break_evens": [_break_even(one) for one in found.break_evens],
        "largest": _largest(found.largest),
        "family": [_member(one) for one in found.family],
        "scaling": [_curve(one) for one in found.curves],
        "num_searches": len(found.paces),
        "num_searched": found.num_searched,
        "elapsed_seconds": found.elapsed_seconds,
    }


def _key(one: Option | None) -> dict[str, Any] | None:
    return None if one is None else {"offer": one.offer.name, "devices": one.num_devices}


def _option(one: Option, *, on_front: bool, chance: float) -> dict[str, Any]:
    run, pace = one.run, one.pace
    return {
        "offer": one.offer.name,
        "provider": one.offer.provider,
        "accelerator": one.offer.accelerator,
        "cluster": one.offer.cluster,
        "terms": one.offer.terms,
        "region": one.offer.region,
        "devices": one.num_devices,
        "plan": plan_fields(pace.plan),
        "step_seconds": pace.step_seconds,
        "step_interval": {
            "low": pace.low_seconds, "high": pace.high_seconds, "level": pace.level_fraction, "basis": pace.basis,
        },
        "breakdown_seconds": pace.breakdown.parts(),
        "mfu": pace.mfu_fraction,
        "peak_bytes": pace.peak_bytes,
        "usable_bytes": pace.usable_bytes,
        "goodput": run.goodput.parts(),
        "seconds_between_interruptions": run.stops.seconds_between,
        "num_interruptions": _finite(run.num_interruptions),
        "checkpoint_interval_seconds": run.saves.interval_seconds,
        "run_seconds": _finite(run.seconds),
        "run_interval": {
            "low": _finite(one.low_seconds), "high": _finite(one.high_seconds), "level": pace.level_fraction,
        },
        "dollars": _finite(one.dollars),
        "dollars_interval": {
            "low": _finite(one.low_dollars), "high": _finite(one.high_dollars), "level": pace.level_fraction,
        },
        "bill_dollars": one.bill.parts(),
        "outlay_dollars": one.outlay_dollars,
        "energy_joules": one.bill.energy_joules if pace.rated_watts else None,
        "carbon_kilograms": one.bill.carbon_kilograms if pace.rated_watts else None,
        "embodied_kilograms": one.bill.embodied_kilograms,
        "dollars_per_million_tokens": _finite(one.dollars_per_million_tokens),
        "late_fraction": one.late_fraction,
        "over_budget_fraction": one.dear_fraction,
        "risk_fraction": one.risk_fraction,
        "on_front": on_front,
        "choice_fraction": chance,
        "is_measured": pace.is_measured,
        "shortfall": one.shortfall,
    }  # fmt: skip


def _refused(one: Refused) -> dict[str, Any]:
    return {"offer": one.offer.name, "devices": one.num_devices, "reason": one.reason}


def _what_if(one: WhatIf) -> dict[str, Any]:
    return {
        "name": one.name,
        "factor": one.change_factor,
        "accelerator": one.accelerator or None,
        "best": _key(one.best),
        "dollars": None if one.best is None else one.best.dollars,
        "run_seconds": None if one.best is None else one.best.run.seconds,
        "changes_choice": one.changes_choice,
    }


def _break_even(one: BreakEven) -> dict[str, Any]:
    return {
        "bought": _key(one.bought),
        "rented": _key(one.rented),
        "use_seconds": _finite(one.use_seconds),
        "life_seconds": one.life_seconds,
    }


def _largest(one: Largest | None) -> dict[str, Any] | None:
    return None if one is None else {"option": _key(one.option), "tokens": one.tokens}


def _member(one: Member) -> dict[str, Any]:
    return {
        "model": one.model,
        "num_parameters": one.num_parameters,
        "tokens": one.ranking.demand.tokens,
        "best": _key(one.ranking.best),
        "dollars": None if one.ranking.best is None else one.ranking.best.dollars,
        "largest": _largest(one.largest),
    }


def _curve(one: Curve) -> dict[str, Any]:
    return {
        "cluster": one.cluster,
        "kind": "weak" if one.is_weak else "strong",
        "bend_devices": one.bend.num_devices if one.bend else None,
        "points": [
            {
                "devices": point.num_devices,
                "step_seconds": point.pace.step_seconds,
                "tokens_per_second": point.tokens_per_second,
                "speedup_factor": point.speedup_factor,
                "efficiency_fraction": point.efficiency_fraction,
                "marginal_fraction": point.marginal_fraction,
                "grown_part": point.grown_part or None,
                "grown_fraction": point.grown_fraction,
            }
            for point in one.points
        ],
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity: null stands for a limit that nobody set, and for a run that never ends."""
    return float(value) if math.isfinite(value) else None
