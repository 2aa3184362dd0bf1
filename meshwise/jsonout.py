"""Answers as JSON: stable keys, SI units, fractions rather than percent. docs/json.md describes them.

A value that is not known is null, never left out.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from meshwise.errorbars import error_bar, is_tied
from meshwise.jobfile import Question
from planner.breakdown import Breakdown
from planner.choose.search import Answer, Candidate
from planner.choose.skeletons import way_of
from planner.cost.estimate import Estimate
from planner.cost.fit import fit_of, upper_bytes
from planner.cost.intervals import memory_intervals
from planner.cost.memory import MemoryBreakdown, stage_memory, usable_bytes
from planner.cost.metrics import mfu, model_flops_per_second_per_device, tokens_per_second
from planner.cost.mixed import seat_memory
from planner.plan import Plan, as_written
from profiles.cluster import Cluster
from profiles.mixed import AnyCluster, MixedCluster, groups_of

if TYPE_CHECKING:
    from meshwise.asking import Explanation
    from meshwise.comparing import Figure, Side
    from meshwise.export.registry import Exported, Target
    from meshwise.longrun import LongRunAnswer
    from meshwise.onnetwork import OnNetwork
    from meshwise.scaling import Scale
    from planner.choose.sensitivity import Sensitivity
    from planner.cost.inventory import Item
    from simulator.engine import Simulation
    from validate.compare import Comparison
    from validate.measured import Measurement, Peak


def plan_fields(plan: Plan) -> dict[str, Any]:
    """A plan's fields as they are written in a plan file."""
    return as_written(plan)


def job(question: Question) -> dict[str, Any]:
    """The question, with every default filled in, and the fields that were assumed."""
    return question.table.model_dump() | {"assumed": list(question.assumed)}


def rates(step_seconds: float, question: Question) -> dict[str, Any]:
    """What a step time means in tokens and FLOPs."""
    total = tokens_per_second(step_seconds, question.job)
    return {
        "step_seconds": step_seconds,
        "tokens_per_second": total,
        "tokens_per_second_per_device": total / question.cluster.num_devices,
        "model_flops_per_second_per_device": float(
            model_flops_per_second_per_device(step_seconds, question.job, question.cluster)
        ),
        "mfu": float(mfu(step_seconds, question.job, question.cluster)),
    }


def interval_fields(plan: Plan, step_seconds: float, question: Question) -> dict[str, Any]:
    """The error bar of a step time, and which runs it rests on."""
    bar = error_bar(question, plan, step_seconds)
    return {
        "low": float(bar.low_seconds),
        "high": float(bar.high_seconds),
        "level": bar.level_fraction,
        "basis": bar.basis,
    }


def memory_interval_fields(memory: MemoryBreakdown) -> dict[str, Any]:
    """The error bars of the peak as it would be allocated, reserved and read from the device."""
    return {
        reading: {
            "low": found.low_bytes,
            "high": found.high_bytes,
            "level": found.level_fraction,
            "num_runs": found.num_runs,
            "num_sources": found.num_sources,
        }
        for reading, found in memory_intervals(memory).items()
    }


def priced(question: Question, answer: Estimate) -> dict[str, Any]:
    """One plan and what it costs."""
    assert isinstance(answer.plan, Plan)
    home = question.home(answer.plan)
    capacity = {
        "usable": float(usable_bytes(home, question.stack)),
        "capacity": home.accelerator.memory_bytes,
    }
    return {
        "plan": plan_fields(answer.plan),
        **rates(float(answer.step_seconds), question),
        "interval": interval_fields(answer.plan, float(answer.step_seconds), question),
        "breakdown_seconds": answer.breakdown.parts(),
        "memory_bytes": memory_bytes(question, answer.memory) | capacity,
        "memory_interval_bytes": memory_interval_fields(answer.memory),
        "fits": bool(answer.memory.peak_bytes <= capacity["usable"]),
        "fit": str(fit_of(answer.memory, home, question.stack)),
    }


def memory_bytes(question: Question, memory: MemoryBreakdown) -> dict[str, float]:
    """The parts of a rank's memory and its totals: as allocated, reserved, on the device, and the upper end."""
    return memory.parts() | {
        "allocated": float(memory.allocated_bytes),
        "reserved": float(memory.reserved_bytes),
        "peak": float(memory.peak_bytes),
        "upper": float(upper_bytes(memory, question.stack)),
    }


def estimate(
    question: Question, answer: Estimate, tensors: list["Item"] | None = None, story: "Explanation | None" = None,
    money: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """The document of `estimate --json`; `tensors` of the fullest stage, `story` and `money` are null by default."""
    assert isinstance(answer.plan, Plan)
    held = stages(question, answer.plan)
    return {
        "job": job(question),
        **priced(question, answer),
        "memory_bytes_by_stage": [memory_bytes(question, stage) for stage in held],
        "memory_tensors": None if tensors is None else [_tensor(item) for item in tensors],
        "losses": None
        if story is None
        else [{"name": loss.name, "what": loss.words, "seconds": loss.seconds} for loss in story.losses],
        "sensitivity": None if story is None else _sensitivity(story.sensitivity),
        "money": money,
        "sources": sources(question),
    }


def stages(question: Question, plan: Plan) -> Sequence[MemoryBreakdown]:
    """The memory of every stage; on several groups of nodes lane after lane."""
    if isinstance(question.cluster, Cluster):
        return stage_memory(plan, question.job, question.stack)
    return [seat.memory for seat in seat_memory(plan, question.job, question.cluster, question.stack)]


def _sensitivity(found: "Sensitivity") -> dict[str, Any]:
    """What a tenth more of each resource changes."""
    return {
        "best_plan": plan_fields(found.best_plan) if found.best_plan else None,
        "effects": [
            {
                "resource": effect.resource,
                "plan_fraction": effect.plan_fraction,
                "best_fraction": effect.best_fraction,
                "best_plan": plan_fields(effect.best_plan) if effect.best_plan else None,
            }
            for effect in found.effects
        ],
    }


def export(question: Question, plan: Plan, target: "Target", exported: "Exported") -> dict[str, Any]:
    """The document of `export --json`."""
    return {
        "job": job(question),
        "plan": plan_fields(plan),
        "target": target.name,
        "release": target.release,
        "text": exported.text,
        "notes": list(exported.notes),
    }


def plan_diff(first: "Side", second: "Side") -> dict[str, Any]:
    """The document of `diff --json` for two plans: both priced, and the seconds of the second over the first."""
    sides = [{"job": job(one.asked.question), **priced(one.asked.question, one.answer)} for one in (first, second)]
    return {"first": sides[0], "second": sides[1], "difference_seconds": _differences(first.answer, second.answer)}


def _differences(first: Estimate, second: Estimate) -> dict[str, float]:
    """Part -> seconds of the second over the first; `step` is their sum."""
    gaps = {part: float(seconds - first.breakdown.parts()[part]) for part, seconds in second.breakdown.parts().items()}
    return gaps | {"step": float(second.step_seconds - first.step_seconds)}


def cluster_diff(first: AnyCluster, second: AnyCluster, figures: "Sequence[Figure]") -> dict[str, Any]:
    """The document of `diff --json` for two clusters: figures in SI units, null where one has none."""
    return {
        "first": first.name,
        "second": second.name,
        "figures": {one.name: {"first": one.here, "second": one.there, "ratio": one.ratio} for one in figures},
    }


def search(
    question: Question, answer: Answer, other: Estimate | None = None, scales: "Sequence[Scale]" = (), money: Any = None
) -> dict[str, Any]:
    """The document of `plan --json`; without candidates it says why nothing fits.

    `other` is a plan to compare with, `scales` the best plans on other numbers of devices, `money` that of plan 1.
    """
    compared = None
    if other is not None:
        gaps = _differences(answer.candidates[0].estimate, other)
        compared = {**priced(question, other), "difference_seconds": gaps}
    return {
        "job": job(question),
        "candidates": [_candidate(question, candidate, answer.candidates[0]) for candidate in answer.candidates],
        "compared": compared,
        "scaling": [_scale(one) for one in scales],
        "money": money,
        "front": [priced(question, one) for one in answer.front],
        "ways": [
            {"way": way_of(one.plan.placement), "reason": one.reason, **priced(question, one.estimate)}
            for one in answer.ways
        ],
        "num_splits": answer.num_splits,
        "num_plans": answer.num_plans,
        "num_legal": answer.num_legal,
        "num_fitting": answer.num_fitting,
        "num_too_slow": answer.num_too_slow,
        "num_estimated": answer.num_estimated,
        "rejected": answer.rejected,
        "unmet": answer.unmet,
        "nearest_misses": [
            {"plan": plan_fields(miss.plan), "bytes_over": miss.bytes_over, "reason": miss.reason}
            for miss in answer.nearest_misses
        ],
        "elapsed_seconds": answer.elapsed_seconds,
        "sources": sources(question),
    }


def _scale(one: "Scale") -> dict[str, Any]:
    """The best plan on one number of devices."""
    return {
        "devices": one.num_devices,
        "on_front": one.on_front,
        "device_hours_per_tera": one.device_hours_per_tera,
        "dollars_per_tera": one.dollars_per_tera,
        "headroom_bytes": one.headroom_bytes,
        "best": priced(one.question, one.best) if one.best else None,
    }


def simulation(
    question: Question, answer: Estimate, played: "Simulation", over_weeks: "LongRunAnswer | None",
    shared: "OnNetwork | None" = None, money: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """The document of `simulate --json`: the simulated step beside the estimate, and weeks of it if asked for."""
    assert isinstance(answer.plan, Plan)
    return {
        "job": job(question),
        "plan": plan_fields(answer.plan),
        "estimated": priced(question, answer),
        "simulated": _simulated(question, played.breakdown),
        "busiest_rank": played.busiest_rank,
        "peak_activations": list(played.peak_activations),
        "peak_activation_bytes": list(played.peak_activation_bytes),
        "network": None if shared is None else _network(question, shared),
        "long_run": None if over_weeks is None else _long_run(over_weeks),
        "money": money,
        "sources": sources(question),
    }


def _network(question: Question, shared: "OnNetwork") -> dict[str, Any]:
    """What the links of the network did to the step."""
    step, alone = shared.step, shared.undisturbed
    return {
        "num_simulated_ranks": step.folding.num_lanes * step.folding.plan.pp,
        "num_messages": step.num_messages,
        "message_seconds": step.delays[step.simulation.busiest_rank],
        "busiest_links": [{"link": name, "busy_fraction": share} for name, share in step.busiest_links(3)],
        "run_seconds": list(shared.run_seconds),
        "undisturbed": None if alone is None else _simulated(question, alone.simulation.breakdown),
    }


def _long_run(found: "LongRunAnswer") -> dict[str, Any]:
    """Shares of weeks: closed form, and mean, low and high over the played runs."""

    def spread(values: tuple[float, float, float]) -> dict[str, float]:
        return dict(zip(("mean", "low", "high"), values, strict=True))

    return {
        "horizon_seconds": found.horizon_seconds,
        "fleet": found.fleet.name,
        "seconds_between_interruptions": found.stops.seconds_between,
        "restart_seconds": found.stops.restart_seconds,
        "manual_restart_fraction": found.stops.manual_fraction,
        "manual_restart_seconds": found.stops.manual_seconds if found.stops.manual_fraction else None,
        "checkpoint_bytes": found.checkpoint_bytes,
        "checkpoint_interval_seconds": found.saves.interval_seconds,
        "best_interval_seconds": found.best_interval_seconds,
        "num_spares": found.nodes.num_spares,
        "peer_interval_seconds": found.copies.interval_seconds if found.copies else None,
        "switch_fraction": found.nodes.switch_fraction,
        "num_runs": len(found.runs),
        "closed_form_fractions": {part: float(value) for part, value in found.expected.parts().items()},
        "simulated_fractions": {
            part: spread(found.spread(part)) | {"mean_error": found.mean_error(part)} for part in found.expected.parts()
        },
        "num_interruptions": spread(found.interruptions),
    }


def spread(measured: "Measurement") -> dict[str, Any]:
    """How far measured steps lie apart, and what was left out or doubted."""
    low, high = measured.range_seconds
    return {
        "fastest_seconds": low,
        "slowest_seconds": high,
        "noise_fraction": measured.noise_fraction,
        "num_discarded": measured.num_discarded,
        "num_contended": measured.num_contended,
    }


def peak(found: "Peak") -> dict[str, Any]:
    """What tensors held at most, and the resident set (null on CUDA)."""
    return {"peak_bytes": found.allocated_bytes, "resident_bytes": found.resident_bytes}


def comparison(question: Question, found: "Comparison") -> dict[str, Any]:
    """The document of `validate --json`: estimated, simulated and measured."""
    measured, alone = found.measured, found.single_measured
    return {
        "job": job(question),
        "plan": plan_fields(found.plan),
        "estimated": priced(question, found.estimated),
        "simulated": _simulated(question, found.simulated),
        "measured": {
            **rates(measured.step_seconds, question),
            "breakdown_seconds": measured.breakdown.parts(),
            **peak(found.measured_peak),
            **spread(measured),
            "launches": [
                {"step_seconds": list(one.step_seconds), "foreign_cores": one.foreign_cores, "losses": list(one.losses)}
                for one in measured.launches
            ],
        },
        "one_rank": {
            "estimated_seconds": float(found.single_estimated.step_seconds),
            "measured_seconds": alone.step_seconds if alone else None,
        },
        "speedup": {"estimated": found.estimated_speedup, "measured": found.measured_speedup},
        "error_fraction": float(found.error_fraction),
        "ranks_per_core": found.ranks_per_core,
        "verdict": found.verdict,
        "sources": sources(question),
    }


def sources(question: Question) -> list[dict[str, Any]]:
    """Where the figures came from: every record that the answer rests on."""
    cluster = question.cluster
    records: list[tuple[str, Any]] = [
        ("model", question.job.model),
        ("cluster", cluster),
        ("software", question.stack),
    ]
    for _, group in groups_of(cluster):
        records += [("accelerator", group.accelerator), ("kernels", group.kernels)]
        records += [("link", tier.curves) for tier in group.tiers]
    if isinstance(cluster, MixedCluster) and cluster.join is not None:
        records.append(("link", cluster.join.tier.curves))
    return [
        {"kind": kind, "name": record.name, "source": record.source, "unverified": list(record.unverified)}
        for kind, record in records
    ]


def _candidate(question: Question, candidate: Candidate, best: Candidate) -> dict[str, Any]:
    played = _simulated(question, candidate.simulated) if candidate.simulated else None
    return priced(question, candidate.estimate) | {
        "simulated": played,
        "reason": candidate.reason,
        "is_within_error_of_best": is_tied(candidate, best),
    }


def _tensor(item: "Item") -> dict[str, Any]:
    return asdict(item) | {"num_bytes": item.num_bytes}


def _simulated(question: Question, breakdown: Breakdown) -> dict[str, Any]:
    parts = {name: float(seconds) for name, seconds in breakdown.parts().items()}
    return rates(float(breakdown.step_seconds), question) | {"breakdown_seconds": parts}
