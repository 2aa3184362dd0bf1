"""Searches and estimates of serving jobs as JSON: stable keys, SI units."""

import math
from dataclasses import asdict
from typing import Any

from meshwise.serving.document import figures
from meshwise.serving.estimating import ServingEstimate
from meshwise.serving.jobfile import ServingFile
from meshwise.serving.modelling import variant_words
from meshwise.serving.placing import PlacedModels
from meshwise.serving.planning import ServingPlans
from planner.choose.serving import ServingCandidate
from planner.cost.kv import ServingMemory


def plans_document(answer: ServingPlans) -> dict[str, Any]:
    """The document of `plan --json` for a serving job."""
    return {
        "job": answer.file.job.model_dump(),
        "load": answer.file.load.model_dump(),
        "targets": answer.file.targets.model_dump(),
        "variant": variant_words(answer.file.serving[0]),
        "num_considered": answer.found.num_considered,
        "num_requests_played": answer.num_requests,
        "is_met": answer.is_met,
        "refused": answer.found.refused,
        "nearest": answer.found.nearest or None,
        "candidates": [
            {**_candidate(one.candidate), "simulated": figures(one.figures) if one.figures else None}
            for one in answer.ranked
        ],
        "pareto": [_candidate(one) for one in answer.found.pareto],
    }


def placements_document(found: PlacedModels) -> dict[str, Any]:
    """The document of `plan --json` for a job of several models."""
    names = [table.name or table.model for table in found.file.serving]
    return {
        "job": found.file.job.model_dump(),
        "targets": found.file.targets.model_dump(),
        "best": found.best,
        "placements": [
            {
                "devices": dict(one.devices),
                "dollars_per_hour": one.dollars_per_hour,
                "models": [
                    {"name": name, "plan": asdict(choice.plan), "ttft_tail_seconds": choice.ttft_tail_seconds,
                     "tpot_seconds": choice.tpot_seconds}
                    for name, choice in zip(names, one.choices, strict=True)
                ],
                "simulated": figures(found.played[number].runs[0].figures) if number < len(found.played) else None,
                "is_met": found.played[number].is_met if number < len(found.played) else None,
            }
            for number, one in enumerate(found.ranked)
        ],
        "refused": found.refused,
    }  # fmt: skip


def _candidate(one: ServingCandidate) -> dict[str, Any]:
    names = ("requests_per_second", "most_requests_per_second", "ttft_seconds", "ttft_tail_seconds", "tpot_seconds",
             "tpot_tail_seconds", "e2e_tail_seconds", "output_tokens_per_second", "dollars_per_hour",
             "tokens_per_second_per_user", "tokens_per_second_per_device")  # fmt: skip
    return {
        "plan": asdict(one.plan), "num_devices": one.plan.num_devices,
        **{name: _finite(getattr(one, name)) for name in names},
    }  # fmt: skip


def estimate_document(file: ServingFile, found: tuple[ServingEstimate, ...]) -> dict[str, Any]:
    """The document of `estimate --json` for a serving job."""
    names = ("ttft_seconds", "ttft_tail_seconds", "tpot_seconds", "tpot_tail_seconds", "itl_tail_seconds",
             "e2e_seconds", "output_tokens_per_second", "num_running", "most_requests_per_second",
             "is_stable")  # fmt: skip
    return {
        "job": file.job.model_dump(),
        "load": file.load.model_dump(),
        "targets": file.targets.model_dump(),
        "serving": [
            {
                "name": one.served.name, "model": one.served.model.name, "engine": one.served.engine.name,
                "num_devices": one.served.plan.num_devices, "variant": variant_words(asked),
                "memory_bytes": [_memory(memory) for memory in one.served.memory],
                "requests_per_second": one.load.requests_per_second,
                **{name: _finite(getattr(one, name)) for name in names},
            }
            for one, asked in zip(found, file.serving, strict=True)
        ],
    }  # fmt: skip


def _memory(memory: ServingMemory) -> dict[str, float]:
    return {**memory.as_dict(), "num_kv_tokens": memory.num_kv_tokens}


def _finite(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else None
