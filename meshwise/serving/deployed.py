"""A serving job with the deployment that a search found: as `simulate` and `export` read it, and as text."""

import json
from typing import Any

from meshwise.serving.jobfile import PoolTable, ServedTable, ServingFile
from planner.serving import Pool, ServingPlan


def with_rate(file: ServingFile, requests_per_second: float) -> ServingFile:
    """The job with a load of lengths alone at that rate."""
    load = file.load.model_copy(update={"requests_per_second": requests_per_second})
    return file.model_copy(update={"load": load})


def with_deployment(file: ServingFile, plan: ServingPlan) -> ServingFile:
    """The job of one model, served as `plan` says."""
    changes: dict[str, Any] = {name: getattr(plan, name) for name in ("weights", "expert_weights", "kv_dtype")}
    changes |= pool_fields(plan.decode)
    changes["prefill"] = PoolTable(**pool_fields(plan.prefill)) if plan.prefill else None
    return file.model_copy(update={"serving": (well_routed(file.serving[0].model_copy(update=changes)),)})


def well_routed(table: ServedTable) -> ServedTable:
    """With routers that look at loads, unless one is stated: by turns, a fleet wastes a good part of itself."""
    prefill = table.prefill
    if prefill is not None and "router" not in prefill.model_fields_set:
        table = table.model_copy(update={"prefill": prefill.model_copy(update={"router": "least-loaded"})})
    return table if "router" in table.model_fields_set else table.model_copy(update={"router": "least-loaded"})


_FIELDS = ("replicas", "tp", "pp", "ep", "attention_dp", "token_budget", "max_sequences", "device_fraction", "cluster")


def pool_fields(pool: Pool) -> dict[str, Any]:
    """Those of a job's table."""
    return {name: getattr(pool, name) for name in _FIELDS}


def render(file: ServingFile) -> str:
    """A job file's text, with the deployment it states."""
    lines: list[str] = []
    for name in ("job", "load", "targets"):
        values = getattr(file, name).model_dump(exclude_none=True, exclude_defaults=name != "job")
        lines += [f"[{name}]", *_lines({key: one for key, one in values.items() if one != ()}), ""] if values else []
    several = len(file.serving) > 1
    for served in file.serving:
        table = served.model_dump(exclude_none=True, exclude={"prefill", "scaling", "failures"})
        name = "[[serving]]" if several else "[serving]"
        lines += [name, *_lines({key: value for key, value in table.items() if value != ""}), ""]
        if served.prefill is not None:
            pool = served.prefill.model_dump(exclude_none=True, exclude={"scaling", "failures"})
            lines += ["[serving.prefill]", *_lines(pool), ""]
    for task in file.task:
        lines += ["[[task]]", *_lines(task.model_dump(exclude_none=True, exclude_defaults=True)), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _lines(values: dict[str, Any]) -> list[str]:
    return [f"{name} = {_toml(value)}" for name, value in values.items()]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(_lines(value)) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value), ensure_ascii=False)
