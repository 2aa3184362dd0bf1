"""A sweep as JSON. docs/json.md describes the keys."""

from typing import Any

from meshwise import jsonout
from meshwise.jobfile import Question
from validate.sweep.outcome import Outcome, Sweep


def document(question: Question, found: Sweep) -> dict[str, Any]:
    """The document of `validate --sweep --json`."""
    right, apart = found.pairs
    return {
        "job": jsonout.job(question),
        "one_rank": _outcome(found, found.alone, question),
        "plans": [_outcome(found, outcome, question) for outcome in found.outcomes],
        "failures": [{"plan": jsonout.plan_fields(one.plan), "reason": one.reason} for one in found.failures],
        "num_pending": found.num_pending,
        "ranking": {
            "regret_fraction": found.regret_fraction,
            "kendall_tau": found.kendall_tau,
            "num_pairs_right": right,
            "num_pairs_apart": apart,
            "noise_fraction": found.noise_fraction,
        },
        "probes": [probe.as_dict() for probe in found.probes],
        "doubts": found.doubts,
        "sources": jsonout.sources(question),
    }


def _outcome(found: Sweep, outcome: Outcome, question: Question) -> dict[str, Any]:
    measured = outcome.measured
    estimated_speedup, measured_speedup = found.speedups(outcome)
    return {
        "plan": jsonout.plan_fields(outcome.plan),
        "ranks_per_core": outcome.ranks_per_core,
        "estimated": {
            "step_seconds": float(outcome.estimated.step_seconds),
            "breakdown_seconds": _floats(outcome.estimated.breakdown.parts()),
            "peak_bytes": float(outcome.estimated.memory.allocated_bytes),
            "resident_bytes": float(outcome.estimated.memory.peak_bytes),
            "speedup": estimated_speedup,
            "scaling_efficiency": estimated_speedup / outcome.plan.num_ranks,
        },
        "simulated": {
            "step_seconds": float(outcome.simulated.step_seconds),
            "breakdown_seconds": _floats(outcome.simulated.parts()),
        },
        "measured": {
            "step_seconds": measured.step_seconds,
            "breakdown_seconds": measured.breakdown.parts(),
            **jsonout.peak(outcome.peak),
            "speedup": measured_speedup,
            "scaling_efficiency": measured_speedup / outcome.plan.num_ranks,
            **jsonout.spread(measured),
            "launches": [
                {
                    "step_seconds": list(launch.step_seconds),
                    "foreign_cores": launch.foreign_cores,
                    "preemptions_per_step": launch.preemptions_per_step,
                }
                for launch in measured.launches
            ],
        },
        "error_fraction": outcome.error_fraction,
        "simulated_error_fraction": outcome.simulated_error_fraction,
        "memory_error_fraction": outcome.memory_error_fraction,
    }


def _floats(parts: dict[str, Any]) -> dict[str, float]:
    return {name: float(seconds) for name, seconds in parts.items()}
