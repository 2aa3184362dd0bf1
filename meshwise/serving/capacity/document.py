"""The capacity answer of a serving job as JSON: stable keys, SI units."""

import math
from dataclasses import asdict
from typing import Any

from meshwise.serving.capacity.answering import ServingCapacityAnswer
from meshwise.serving.capacity.beside import Beside
from meshwise.serving.document import figures
from meshwise.serving.modelling import variant_words
from planner.choose.serving_capacity.option import LEVEL, FleetOption


def document(found: ServingCapacityAnswer) -> dict[str, Any]:
    """The document of `capacity --json` for a serving job; dollars, joules and kilograms are of all hours together."""
    best = found.best
    return {
        "load": found.file.load.model_dump(),
        "targets": found.file.targets.model_dump(),
        "variant": variant_words(found.file.serving[0]),
        "asked": found.asked.model_dump(),
        "hours": {
            "requests_per_second": found.day.requests_per_second.tolist(),
            "input_tokens": found.day.input_tokens,
            "output_tokens": found.day.output_tokens,
        },
        "interval_level": LEVEL,
        "best": _option(found, best) if best is not None else None,
        "options": [_option(found, one) for one in found.options],
        "refused": dict(found.refused),
        "training": _training(found.beside) if found.beside is not None else None,
    }


def _option(found: ServingCapacityAnswer, one: FleetOption) -> dict[str, Any]:
    played = found.played(one)
    return {
        "offer": one.lines[0].offer.name,
        "how": one.how,
        "lines": [
            {"offer": line.offer.name, "source": line.offer.source, "as_of": line.offer.as_of,
             "devices": line.devices.tolist()}
            for line in one.lines
        ],
        "plan": asdict(one.deployment.plan(one.peak_counts)),
        "replicas": [numbers.tolist() for numbers in one.num_replicas],
        "dollars": one.dollars,
        "dollars_interval": {"low": one.low_dollars, "high": one.high_dollars},
        "dollars_by_part": one.bill.parts(),
        "dollars_per_million_output_tokens": one.dollars_per_million_output_tokens,
        "energy_joules": one.bill.energy_joules or None,
        "carbon_kilograms": one.bill.carbon_kilograms if one.bill.energy_joules else None,
        "risk_fraction": one.risk_fraction,
        "busiest_hour": None if played is None else {"is_met": played.is_met, **figures(played.figures)},
    }  # fmt: skip


def _training(found: Beside) -> dict[str, Any]:
    return {
        "offer": found.fleet.offer.name,
        "num_devices": found.num_devices,
        "free_devices": found.free_devices.tolist(),
        "training_devices": found.shared.devices.tolist(),
        "num_changes": found.shared.num_changes,
        "resize_seconds": found.shared.resize_seconds,
        "tokens_per_day": found.shared.tokens_per_day,
        "tokens": found.tokens,
        "days": found.days if math.isfinite(found.days) else None,
        "dollars": found.dollars if math.isfinite(found.dollars) else None,
        "own_devices": found.own_devices,
        "two_fleets_dollars": found.two_fleets_dollars if math.isfinite(found.two_fleets_dollars) else None,
    }
