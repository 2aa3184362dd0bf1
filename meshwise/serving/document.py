"""A simulated serving job as JSON: stable keys, SI units."""

import math
from dataclasses import asdict
from typing import Any

from meshwise.serving.jobfile import ServedTable
from meshwise.serving.modelling import variant_words
from meshwise.serving.playing import Served, ServingAnswer
from simulator.serving.gaps import Gaps
from simulator.serving.statistics import LEVEL, PERCENTILES, Estimate, Spread, Summary


def document(answer: ServingAnswer) -> dict[str, Any]:
    """The document of `simulate --json` for a serving job."""
    return {
        "job": answer.file.job.model_dump(),
        "load": answer.file.load.model_dump(),
        "targets": answer.file.targets.model_dump(),
        "num_devices": answer.num_devices,
        "serving": [_served(*both) for both in zip(answer.served, answer.file.serving, strict=True)],
        "interval_level": LEVEL,
        "runs": [
            {
                "seed": run.seed,
                **figures(run.figures),
                "itl_seconds": _gaps(run.timeline.gaps),
                "replica_seconds": list(run.played.replica_seconds),
            }
            for run in answer.runs
        ],
        "groups": {name: figures(found) for name, found in answer.groups()},
    }


def figures(found: Summary) -> dict[str, Any]:
    """One summary; intervals without an end are null there."""
    plain = {name: value for name, value in asdict(found).items() if not isinstance(value, dict)}
    spreads = {name: _spread(getattr(found, name)) for name in ("ttft_seconds", "tpot_seconds", "e2e_seconds")}
    return {**plain, **spreads, "attained_fraction": _estimate(found.attained_fraction)}


def _gaps(found: Gaps) -> dict[str, float | None]:
    values = {"mean": found.mean_seconds, **{f"p{one}": found.percentile_seconds(one) for one in PERCENTILES}}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _spread(found: Spread) -> dict[str, Any]:
    return {
        "mean": _estimate(found.mean),
        **{f"p{percent}": _estimate(value) for percent, value in found.percentiles.items()},
    }


def _estimate(found: Estimate) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(found).items()}


def _served(one: Served, asked: ServedTable) -> dict[str, Any]:
    return {
        "name": one.name,
        "model": one.model.name,
        "engine": one.engine.name,
        "plan": asdict(one.plan),
        "variant": variant_words(asked),
        "pools": [
            {"memory_bytes": memory.as_dict(), "kv_tokens": pool.replica.kv_tokens}
            for memory, pool in zip(one.memory, one.deployment.pools, strict=True)
        ],
        "sources": {"engine": one.engine.source, "model": one.model.source},
    }
